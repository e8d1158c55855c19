# What several of the module's files need to know: names, and amounts as people write them.
{ lib }:
rec {
  # The manifest's grammar for owners; src/model/name.rs says why.
  validName =
    name: builtins.match "[a-z][a-z0-9]*(-[a-z0-9]+)*" name != null && lib.stringLength name <= 20;
  reservedNames = [
    "admin"
    "csm"
    "localhost"
    "mail"
    "main"
    "root"
    "wpad"
    "www"
  ];

  # An owner's account, and their private group.
  account = name: "csm-${name}";

  # systemd takes a dash in a slice's name for a level of its tree: without the escape, anna-lena's slice would lie in anna's.
  slice = name: "code-server-${lib.replaceStrings [ "-" ] [ "\\x2d" ] name}";
  unit = name: "code-server-${name}@";

  # Each finding is a message; nothing found is no message, which costs less than an assertion for each person and matter.
  refuse = message: {
    assertion = false;
    inherit message;
  };

  # An image as the manifest names it: an archive that Nix builds, or what was given.
  imageName =
    image: if lib.isDerivation image || lib.isStorePath image then "docker-archive:${image}" else image;

  # What Podman keeps of each of a person's workspaces, by the instance's name.
  workspaceState = cfg: name: "${cfg.stateBase}/code-server-workspaces/${name}";

  # A path as units write it: systemd takes a percent sign for the beginning of a specifier.
  unitPath = lib.replaceStrings [ "%" ] [ "%%" ];

  # Bytes of "3G", "2560M", "512K" or a number; null when it is none of these.
  bytes =
    given:
    let
      parts = builtins.match "([0-9]+)([KMGT]?)" (toString given);
      factor = {
        "" = 1;
        K = 1024;
        M = 1024 * 1024;
        G = 1024 * 1024 * 1024;
        T = 1024 * 1024 * 1024 * 1024;
      };
    in
    if parts == null then
      null
    else
      # More than 15 digits overflow; nobody has that much memory.
      lib.mapNullable (digits: lib.toIntBase10 digits * factor.${lib.last parts}) (
        if lib.stringLength (lib.head parts) <= 15 then lib.head parts else null
      );

  # A number as Nix writes it, without the zeros that it adds to a float: 1.5 and not 1.500000.
  written =
    given:
    if builtins.isFloat given then
      let
        parts = builtins.match "([0-9]+)\\.([0-9]*[1-9])?0*" (toString given);
      in
      if lib.last parts == null then lib.head parts else lib.concatStringsSep "." parts
    else
      toString given;

  # Thousandths of a CPU of "1.5", "2" or a number; null when it is none of these.
  milliCpus =
    given:
    let
      parts = builtins.match "([0-9]{1,4})(\\.([0-9]{1,3}))?" (written given);
      fraction = lib.elemAt parts 2;
      padded = if fraction == null then "000" else lib.substring 0 3 "${fraction}00";
    in
    if parts == null then null else lib.toIntBase10 (lib.head parts) * 1000 + lib.toIntBase10 padded;

  # What a person has of secrets, everyone's among it. The manifest and the unit's credentials must agree on the files' order, and
  # csm counts them by their path below the home.
  secretEnvironment = cfg: user: cfg.defaults.secretEnvironment // user.secretEnvironment;
  secretFiles =
    cfg: user:
    lib.mapAttrs' (name: lib.nameValuePair (lib.removePrefix "~/" name)) (
      cfg.defaults.secretFiles // user.secretFiles
    );

  # For services that talk through unix sockets alone and need nothing of the machine. Not PrivateUsers: the daemon could no longer
  # tell by which account a socket is used.
  confined = {
    IPAddressDeny = "any";
    PrivateMounts = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectHostname = true;
    ProtectProc = "invisible";
    RemoveIPC = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    PrivateNetwork = true;
    RestrictAddressFamilies = "AF_UNIX";
    CapabilityBoundingSet = "";
    NoNewPrivileges = true;
    ProtectSystem = "strict";
    ProtectHome = true;
    PrivateTmp = true;
    PrivateDevices = true;
    ProtectControlGroups = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    RestrictNamespaces = true;
    SystemCallArchitectures = "native";
    UMask = "0077";
    # Their memory holds passwords.
    LimitCORE = 0;
  };

  # Names that browsers trust without TLS, as they never leave the machine.
  isLocalhost = domain: domain == "localhost" || lib.hasSuffix ".localhost" domain;

  # What units, tmpfiles and Podman all take as it is written, and one spelling of it.
  isPlainPath =
    path:
    builtins.match "(/[A-Za-z0-9._+-]+)+" path != null
    && builtins.match ".*/\\.{1,2}(/.*)?" path == null;

  # Directories that are not for people's files: because others need them as they are, or because they are gone after a reboot.
  isOfTheSystem =
    path:
    lib.elem path [
      "/home"
      "/mnt"
      "/opt"
      "/persist"
      "/srv"
      "/var"
      "/var/cache"
      "/var/empty"
      "/var/lib"
      "/var/lib/private"
      "/var/log"
      "/var/spool"
      "/var/tmp"
    ]
    || lib.any (top: lib.hasPrefix "${top}/" "${path}/") [
      "/bin"
      "/boot"
      "/dev"
      "/etc"
      "/lib"
      "/lib64"
      "/nix"
      "/proc"
      "/root"
      "/run"
      "/sbin"
      "/sys"
      "/tmp"
      "/usr"
      "/var/lib/nixos"
      "/var/run"
    ];

  inStore = path: lib.hasPrefix builtins.storeDir path;
}
