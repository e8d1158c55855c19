# Finds invalid options before anything is built. Each message ends with the fix.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.services.code-server-multi;
  inherit (cfg) defaults;
  ours = import ./lib.nix { inherit lib; };
  option = "services.code-server-multi";

  # The options that are set and that provide a certificate.
  certificates =
    lib.optional (cfg.acme.dnsProvider != null) "acme.dnsProvider"
    ++ lib.optional (cfg.useACMEHost != null) "useACMEHost"
    ++ lib.optional (cfg.certificate != null || cfg.certificateKey != null) "certificate";

  system =
    lib.optional (cfg.domain == null && (certificates != [ ] || cfg.openFirewall))
      "${option}.domain is not set, but ${
        lib.concatStringsSep " and " (
          map (name: "${option}.${name}") (certificates ++ lib.optional cfg.openFirewall "openFirewall")
        )
      } is; set it to the DNS name of the dashboard, for example \"code.example.org\"."
    ++
      lib.optional
        (
          cfg.domain != null
          &&
            builtins.match "[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+" cfg.domain == null
        )
        "${option}.domain is \"${cfg.domain}\", which is not a DNS name; write it without a scheme, a port and capitals, for example \"code.example.org\"."
    ++
      lib.optional (lib.length certificates > 1)
        "${
          lib.concatMapStringsSep " and " (name: "${option}.${name}") certificates
        } are set, and each provides a certificate; keep one."
    ++ lib.optional (
      (cfg.certificate == null) != (cfg.certificateKey == null)
    ) "${option}: only one of certificate and certificateKey is set; set both."
    ++
      lib.optional (cfg.acme.dnsProvider == null && cfg.acme.environmentFile != null)
        "${option}.acme.environmentFile is set without acme.dnsProvider, and a wildcard certificate requires DNS-01; set acme.dnsProvider to lego's name of your DNS provider, for example \"cloudflare\"."
    ++
      lib.optional (cfg.acme.dnsProvider != null && cfg.acme.email == null)
        "${option}.acme.email is not set; set it to a contact address for the certificate authority, or set security.acme.defaults.email."
    ++ wildcard
    ++
      lib.optional (cfg.openFirewall && certificates == [ ])
        "${option}.openFirewall opens ports 80 and 443, but without a certificate nginx listens on ${cfg.listen.address}:${toString cfg.listen.port}; set acme.dnsProvider, useACMEHost or certificate, or leave openFirewall out."
    ++
      lib.optional
        (certificates == [ ] && builtins.match "127\\.[0-9.]+|\\[::1]" cfg.listen.address == null)
        (
          if ours.isLocalhost cfg.internal.domain then
            "${option}.listen.address is ${cfg.listen.address}, but names under localhost are reached only on the host itself; set listen.address to 127.0.0.1, or set domain to a DNS name."
          else
            "${option}.listen.address is ${cfg.listen.address}: without a certificate passwords would cross the network in plain text; set acme.dnsProvider, useACMEHost or certificate, or set listen.address to 127.0.0.1 for a proxy on the host that terminates TLS."
        )
    ++
      lib.optional (!config.services.nginx.enable)
        "${option} requires nginx, and services.nginx.enable is false; remove that line, or set it to true."
    ++
      lib.optional (cfg.sops.enable && !(options ? sops))
        "${option}.sops.enable is set, but sops-nix is not imported; add sops-nix.nixosModules.sops to your modules, or give each user a passwordFile."
    ++ places
    ++ lib.optionals (cfg.certificate != null) (
      unusablePath "${option}.certificate" cfg.certificate "/var/lib/certificates/code.pem"
    )
    ++ lib.optionals (cfg.certificateKey != null) (
      unusablePath "${option}.certificateKey" cfg.certificateKey "/run/secrets/code-key.pem"
      ++ inStore "${option}.certificateKey" cfg.certificateKey
    )
    ++ secretPath "${option}.acme.environmentFile" cfg.acme.environmentFile
    ++ secrets "${option}.defaults" defaults
    ++ amounts "${option}.defaults" defaults
    ++ ports;

  # The directories for users' files, for sessions and for Podman's storage. systemd-tmpfiles changes the owner of each user's directory to
  # the user's account, even if another account owns what is there.
  places =
    let
      base = cfg.workspaceBase;
      state = map (name: "${cfg.stateBase}/${name}") [
        "code-server-multi"
        "code-server-workspaces"
      ];
      others = lib.filterAttrs (
        name: user: !lib.hasPrefix "csm-" name && builtins.match "/[^/].*" user.home != null
      ) config.users.users;
      within = path: directory: lib.hasPrefix "${directory}/" "${path}/";

      # Messages about an option and the directories that it sets.
      wrong =
        name: directories: fix:
        let
          subject = "${option}.${name} is \"${cfg.${name}}\"";
          owners = lib.attrNames (
            lib.filterAttrs (
              _: user: user.home != "/var/empty" && lib.any (directory: within directory user.home) directories
            ) others
          );
        in
        unusablePath "${option}.${name}" cfg.${name} "/srv/workspaces"
        ++ lib.optionals (ours.isPlainPath cfg.${name}) (
          if lib.any ours.isOfTheSystem directories then
            [ "${subject}, which belongs to the system; set it to ${fix}." ]
          else
            map (
              account:
              "${subject}, in the home of the account ${account}, which could replace it; set it to ${fix}."
            ) owners
        );
      ofBase = wrong "workspaceBase" [ base ] "a separate directory, for example \"/var/lib/vscode\"";
      ofState = wrong "stateBase" state "a directory that survives a reboot, for example \"/var/lib\"";

      overlapping = lib.filter (directory: within base directory || within directory base) state;
      homes = lib.concatLists (
        lib.mapAttrsToList (
          account: user:
          let
            name = lib.head (lib.splitString "/" (lib.removePrefix "${base}/" user.home));
          in
          lib.optional (!within base user.home && within user.home base && cfg.users ? ${name})
            "${option}.workspaceBase is \"${base}\", so ${name}'s files would be in ${base}/${name}, the home of the account ${account}; set it to a separate directory, for example \"/var/lib/vscode\"."
        ) others
      );
    in
    if ofBase ++ ofState != [ ] then
      ofBase ++ ofState
    else if overlapping != [ ] then
      [
        "${option}.workspaceBase (\"${base}\") and ${lib.head overlapping}, which ${option}.stateBase sets, overlap; set one of the two to a separate directory."
      ]
    else
      homes;

  wildcard =
    let
      certificate = config.security.acme.certs.${cfg.useACMEHost};
      names = [ certificate.domain ] ++ certificate.extraDomainNames;
      fix = "; give it the domain \"*.${cfg.domain}\" and the extra name \"${cfg.domain}\" (this requires DNS-01), or set ${option}.acme.dnsProvider instead.";
    in
    lib.optionals (cfg.useACMEHost != null && cfg.domain != null) (
      lib.optional (
        !lib.elem "*.${cfg.domain}" names
      ) "security.acme.certs.\"${cfg.useACMEHost}\" is not for *.${cfg.domain}${fix}"
      ++
        lib.optional (certificate.dnsProvider == null && lib.any (lib.hasPrefix "*.") names)
          "security.acme.certs.\"${cfg.useACMEHost}\" is for a wildcard and has no dnsProvider; set its dnsProvider to lego's name of your DNS provider, as a wildcard requires DNS-01."
    );

  # The options that claim a port of the loopback, by port.
  ports =
    let
      taken =
        lib.mapAttrsToList (name: user: {
          port = toString user.port;
          by = "${option}.users.${name}.port";
        }) (lib.filterAttrs (_: user: user.port != null) cfg.users)
        ++ lib.optional (certificates == [ ]) {
          port = toString cfg.listen.port;
          by = "${option}.listen.port";
        };
      clashes = lib.filterAttrs (_: all: lib.length all > 1) (lib.groupBy (one: one.port) taken);
    in
    lib.mapAttrsToList (
      port: all:
      "port ${port} is set by ${
        lib.concatMapStringsSep " and " (one: one.by) all
      }; give each a separate port."
    ) clashes;

  # A path that nginx or systemd-tmpfiles would read as something else.
  unusablePath =
    where: path: example:
    let
      # Without the empty parts: those at its end, and those between two slashes.
      shortest =
        "/" + lib.concatStringsSep "/" (lib.filter (part: part != "") (lib.splitString "/" path));
    in
    if ours.isPlainPath path then
      [ ]
    else if path != "/" && lib.hasPrefix "/" path && ours.isPlainPath shortest then
      [ "${where} is \"${path}\", which ends with \"/\" or contains \"//\"; write \"${shortest}\"." ]
    else
      [
        "${where} is ${builtins.toJSON path}, which is not a path of letters, digits, dots, dashes and underscores; write for example \"${example}\"."
      ];

  inStore =
    where: path:
    lib.optional (ours.inStore path) "${where} is ${path}, in the Nix store, which every account on the host can read; keep the secret outside it, for example with sops-nix, and write its path as a string.";

  secretPath =
    where: path:
    lib.optionals (path != null) (
      inStore where path
      ++ lib.optional (
        !lib.hasPrefix "/" path
      ) "${where} is \"${path}\", which is not an absolute path; write for example \"/run/secrets/name\"."
      ++
        lib.optional (!ours.isOneWord path)
          "${where} is ${builtins.toJSON path}, which contains a blank or a control character; rename the file."
    );

  secrets =
    where: user:
    lib.concatLists (
      lib.mapAttrsToList (name: secretPath "${where}.secretEnvironment.${name}") user.secretEnvironment
      ++ lib.mapAttrsToList (
        name: file:
        secretPath "${where}.secretFiles.\"${name}\".source" file.source
        ++ lib.optional (
          user.secretFiles ? "~/${name}"
        ) "${where}.secretFiles has \"${name}\" and \"~/${name}\", which are the same file; keep one."
      ) user.secretFiles
    );

  # Invalid limits. A message about `defaults` appears once: for a user, only values that differ from the defaults are reported.
  amounts =
    where: user:
    let
      allUsers = "${option}.defaults";
      origin = field: if user.${field} == defaults.${field} then allUsers else where;
      own = field: origin field == where;
      limit = ours.bytes user.memoryLimit;
      high = if user.memoryHigh == null then null else ours.bytes user.memoryHigh;
      cpus = ours.milliCpus user.cpuLimit;
    in
    lib.optional (own "memoryLimit" && (limit == null || limit == 0))
      "${where}.memoryLimit is \"${toString user.memoryLimit}\", which is not a size; write for example \"3G\" or \"2560M\"."
    ++
      lib.optional (own "memoryHigh" && user.memoryHigh != null && (high == null || high == 0))
        "${where}.memoryHigh is \"${toString user.memoryHigh}\", which is not a size; write for example \"2560M\", or leave it out for five sixths of memoryLimit."
    ++
      lib.optional
        (
          (own "memoryHigh" || own "memoryLimit")
          && high != null
          && limit != null
          && limit > 0
          && high > limit
        )
        "${origin "memoryHigh"}.memoryHigh (${toString user.memoryHigh}) is above ${origin "memoryLimit"}.memoryLimit (${toString user.memoryLimit}), and would never take effect; ${
          if own "memoryHigh" then
            "lower it, or leave it out for five sixths of memoryLimit"
          else
            "set ${where}.memoryHigh, or leave ${allUsers}.memoryHigh out for five sixths of memoryLimit"
        }."
    ++
      lib.optional (own "cpuLimit" && (cpus == null || cpus < 10))
        "${where}.cpuLimit is \"${ours.written user.cpuLimit}\", which is not a number of CPUs; write for example \"1.5\" or \"2\".";

  checkUser =
    name: user:
    let
      where = "${option}.users.${name}";
      other = config.users.users.${ours.account name};
    in
    lib.optional (!ours.validName name)
      "${option}.users.\"${name}\": a name is 1 to 20 lower-case letters, digits and single dashes, starting with a letter, because it is part of a DNS name; write for example \"anna-lena\"."
    ++ lib.optional (lib.elem name ours.reservedNames) "${where}: the name is reserved, because the hostname ${name}.${cfg.internal.domain} usually means something else; choose another name."
    ++
      lib.optional (other.isNormalUser || other.description != "workspaces of ${name}")
        "${where}: the account ${ours.account name} is also declared elsewhere (users.users.${ours.account name}); rename that account, or this user."
    ++
      lib.optional (user.passwordFile == null)
        "${where}.passwordFile is not set; set it to a file that contains the password, or its hash from \"csm hash-password\", or set ${option}.sops.enable."
    ++ secretPath "${where}.passwordFile" user.passwordFile
    ++ secrets where user
    ++ amounts where user
    ++ lib.optional (
      user.port != null && user.port < 1024
    ) "${where}.port is ${toString user.port}; choose one from 1024.";

  # If a variable's value looks like the path of a secret, the secret itself was probably intended.
  paths =
    where: environment:
    lib.concatLists (
      lib.mapAttrsToList (
        name: value:
        lib.optional (lib.hasPrefix "/run/secrets" value || lib.hasPrefix "/run/agenix" value)
          "${where}.environment.${name} is the path ${value}: the workspace gets the path, not the content of the file, which it can't read; move the line to ${where}.secretEnvironment, which takes the file's content."
      ) environment
    );
in
{
  config = lib.mkIf cfg.enable {
    assertions = map ours.refuse (system ++ lib.concatLists (lib.mapAttrsToList checkUser cfg.users));

    warnings =
      lib.optional (cfg.domain == null)
        "${option}.domain is not set: the workspaces are reachable only on the host, at http://<name>.code.localhost:${toString cfg.listen.port}; to reach them from other computers, set domain to a DNS name."
      ++
        lib.optional (cfg.domain != null && !ours.isLocalhost cfg.domain && certificates == [ ])
          "${option}: there is no certificate, so nginx listens on ${cfg.listen.address}:${toString cfg.listen.port} for another proxy that terminates TLS on port 443; to obtain a certificate, set acme.dnsProvider."
      ++ paths "${option}.defaults" defaults.environment
      ++ lib.concatLists (
        lib.mapAttrsToList (name: user: paths "${option}.users.${name}" user.environment) cfg.users
      );
  };
}
