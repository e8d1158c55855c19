# Names, limits and checks that several of the module's files use.
{ lib }:
rec {
  # The manifest's grammar for users' names; src/model/name.rs explains it.
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

  # A user's account and private group.
  account = name: "csm-${name}";

  # systemd reads a dash in a slice's name as a level of its tree: without the escape, anna-lena's slice would be inside anna's.
  slice = name: "code-server-${lib.replaceStrings [ "-" ] [ "\\x2d" ] name}";
  unit = name: "code-server-${name}@";

  # A failed assertion. The module builds one for each problem that it finds: one for each user and each check would evaluate slowly.
  refuse = message: {
    assertion = false;
    inherit message;
  };

  # An image as the manifest names it: an archive that Nix builds, or the given name.
  imageName =
    image: if lib.isDerivation image || lib.isStorePath image then "docker-archive:${image}" else image;

  # Podman's storage for a user's workspaces, with one directory for each instance's name.
  workspaceState = cfg: name: "${cfg.stateBase}/code-server-workspaces/${name}";

  # A path as units write it: systemd reads a percent sign as the start of a specifier.
  unitPath = lib.replaceStrings [ "%" ] [ "%%" ];

  # The bytes in "3G", "2560M", "512K" or a number; null for anything else.
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
      # More than 15 digits would overflow; no host has that much memory.
      lib.mapNullable (digits: lib.toIntBase10 digits * factor.${lib.last parts}) (
        if lib.stringLength (lib.head parts) <= 15 then lib.head parts else null
      );

  # A number as text, without the zeros that Nix adds to a float: 1.5 and not 1.500000.
  written =
    given:
    if builtins.isFloat given then
      let
        parts = builtins.match "([0-9]+)\\.([0-9]*[1-9])?0*" (toString given);
      in
      if lib.last parts == null then lib.head parts else lib.concatStringsSep "." parts
    else
      toString given;

  # The thousandths of a CPU in "1.5", "2" or a number; null for anything else.
  milliCpus =
    given:
    let
      parts = builtins.match "([0-9]{1,4})(\\.([0-9]{1,3}))?" (written given);
      fraction = lib.elemAt parts 2;
      padded = if fraction == null then "000" else lib.substring 0 3 "${fraction}00";
    in
    if parts == null then null else lib.toIntBase10 (lib.head parts) * 1000 + lib.toIntBase10 padded;

  # A user's secrets, including those of `defaults`. The manifest and the unit's credentials must have the files in the same order, and
  # csm orders them by their path below the home.
  secretEnvironment = cfg: user: cfg.defaults.secretEnvironment // user.secretEnvironment;
  secretFiles =
    cfg: user:
    let
      byPath = lib.mapAttrs' (name: lib.nameValuePair (lib.removePrefix "~/" name));
    in
    byPath cfg.defaults.secretFiles // byPath user.secretFiles;

  # For services that communicate only over unix sockets and need no access to the host. PrivateUsers is not among these: with it the
  # daemon could not see which account connects to a socket.
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
    # No core dumps: the memory of these services contains passwords.
    LimitCORE = 0;
  };

  # Hostnames that browsers trust without TLS, because their traffic does not leave the host.
  isLocalhost = domain: domain == "localhost" || lib.hasSuffix ".localhost" domain;

  # Whether units, tmpfiles and Podman all read the path literally, and it has no `.` or `..`.
  isPlainPath =
    path:
    builtins.match "(/[A-Za-z0-9._+-]+)+" path != null
    && builtins.match ".*/\\.{1,2}(/.*)?" path == null;

  # Directories that can't hold users' files: the system needs them unchanged, or removes what is in them, at boot or when it is old.
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
      "/var/tmp"
    ];

  # Whether a line of a unit can end with the path: systemd removes a blank at its end, and a newline would start another directive.
  isOneWord = path: builtins.match "[^[:space:][:cntrl:]]*" path != null;

  inStore = path: lib.hasPrefix builtins.storeDir path;
}
