# What can't be meant, each with its remedy; found before anything is built.
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

  # The ways to a certificate that are set, by their options.
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
        "${option}.domain is \"${cfg.domain}\", which is no DNS name; write it without a scheme, a port and capitals, for example \"code.example.org\"."
    ++
      lib.optional (lib.length certificates > 1)
        "${
          lib.concatMapStringsSep " and " (name: "${option}.${name}") certificates
        } are set, each a way to a certificate of its own; keep one."
    ++ lib.optional (
      (cfg.certificate == null) != (cfg.certificateKey == null)
    ) "${option}: only one of certificate and certificateKey is set; set both."
    ++
      lib.optional (cfg.acme.dnsProvider == null && cfg.acme.environmentFile != null)
        "${option}.acme.environmentFile is set without acme.dnsProvider; a wildcard certificate needs DNS-01, so name lego's provider for your DNS, for example \"cloudflare\"."
    ++
      lib.optional (cfg.acme.dnsProvider != null && cfg.acme.email == null)
        "${option}.acme.email is not set; name somebody whom the certificate authority can write to, or set security.acme.defaults.email."
    ++ wildcard
    ++
      lib.optional (cfg.openFirewall && certificates == [ ])
        "${option}.openFirewall opens ports 80 and 443, but without a certificate nginx listens on ${cfg.listen.address}:${toString cfg.listen.port}; set acme.dnsProvider, useACMEHost or certificate, or leave openFirewall out."
    ++
      lib.optional
        (
          certificates == [ ]
          && !ours.isLocalhost cfg.internal.domain
          && builtins.match "127\\.[0-9.]+|\\[::1]" cfg.listen.address == null
        )
        "${option}.listen.address is ${cfg.listen.address}: without a certificate passwords would cross the network in plain text. Set acme.dnsProvider, useACMEHost or certificate, or listen on 127.0.0.1 for a proxy on this machine that ends TLS."
    ++ lib.optional (
      !config.services.nginx.enable
    ) "${option} needs nginx, and services.nginx.enable is false; leave that out, or set it to true."
    ++
      lib.optional (cfg.sops.enable && !(options ? sops))
        "${option}.sops.enable is set, but sops-nix is not imported; add sops-nix.nixosModules.sops to your modules, or give each user a passwordFile."
    ++ places
    ++ inStore "${option}.certificateKey" cfg.certificateKey
    ++ inStore "${option}.acme.environmentFile" cfg.acme.environmentFile
    ++ secrets "${option}.defaults" defaults
    ++ amounts "${option}.defaults" defaults
    ++ ports;

  # Where people's files and Podman's lie. systemd-tmpfiles gives each person's directory there to their account, whatever is there.
  places =
    let
      base = cfg.workspaceBase;
      unreadable =
        name: path:
        lib.optional (!ours.isPlainPath path)
          "${option}.${name} is \"${path}\", which is not a path of letters, digits, dots, dashes and underscores; write for example \"/srv/workspaces\".";
      others = lib.filterAttrs (
        name: user: !lib.hasPrefix "csm-" name && builtins.match "/[^/].*" user.home != null
      ) config.users.users;
      within = path: directory: lib.hasPrefix "${directory}/" "${path}/";
      home =
        account: user:
        let
          rest = lib.splitString "/" (lib.removePrefix "${base}/" user.home);
          name = lib.head rest;
        in
        if within base user.home then
          lib.optional (user.home != "/var/empty")
            "${option}.workspaceBase is \"${base}\", in the home of the account ${account}, who could replace it; name a directory of its own, for example \"/var/lib/vscode\"."
        else
          lib.optional (within user.home base && cfg.users ? ${name})
            "${option}.workspaceBase is \"${base}\", so ${name}'s files would be in ${base}/${name}, the home of the account ${account}; name a directory of its own, for example \"/var/lib/vscode\".";
    in
    unreadable "workspaceBase" base
    ++ unreadable "stateBase" cfg.stateBase
    ++ lib.optionals (ours.isPlainPath base) (
      if ours.isOfTheSystem base then
        [
          "${option}.workspaceBase is \"${base}\", which belongs to the system; name a directory of its own, for example \"/var/lib/vscode\"."
        ]
      else
        lib.concatLists (lib.mapAttrsToList home others)
    );

  wildcard =
    let
      certificate = config.security.acme.certs.${cfg.useACMEHost};
      names = [ certificate.domain ] ++ certificate.extraDomainNames;
      fix = "; give it the domain \"*.${cfg.domain}\" and the extra name \"${cfg.domain}\", which needs DNS-01, or set ${option}.acme.dnsProvider instead.";
    in
    lib.optionals (cfg.useACMEHost != null && cfg.domain != null) (
      lib.optional (
        !lib.elem "*.${cfg.domain}" names
      ) "security.acme.certs.\"${cfg.useACMEHost}\" is not for *.${cfg.domain}${fix}"
      ++
        lib.optional (certificate.dnsProvider == null && lib.any (lib.hasPrefix "*.") names)
          "security.acme.certs.\"${cfg.useACMEHost}\" is for a wildcard and has no dnsProvider; a wildcard needs DNS-01, so name lego's provider for your DNS."
    );

  # What binds a port of the loopback, by port.
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
      "port ${port} is that of ${
        lib.concatMapStringsSep " and " (one: one.by) all
      }; give each a port of its own."
    ) clashes;

  inStore =
    where: path:
    lib.optional (path != null && ours.inStore path)
      "${where} is ${path}, in the Nix store, which everyone on this machine can read; keep the secret outside of it, for example with sops-nix, and give its path as a string."
    ++ lib.optional (
      path != null && !lib.hasPrefix "/" path
    ) "${where} is \"${path}\", which is no absolute path; write for example \"/run/secrets/name\".";

  secrets =
    where: user:
    lib.concatLists (
      lib.mapAttrsToList (name: inStore "${where}.secretEnvironment.${name}") user.secretEnvironment
      ++ lib.mapAttrsToList (
        name: file: inStore "${where}.secretFiles.\"${name}\".source" file.source
      ) user.secretFiles
    );

  # What is no amount, said once of the option that has it: of a person, only what is not everyone's.
  amounts =
    where: user:
    let
      everyone = "${option}.defaults";
      origin = field: if user.${field} == defaults.${field} then everyone else where;
      own = field: origin field == where;
      limit = ours.bytes user.memoryLimit;
      high = if user.memoryHigh == null then null else ours.bytes user.memoryHigh;
      cpus = ours.milliCpus user.cpuLimit;
    in
    lib.optional (own "memoryLimit" && (limit == null || limit == 0))
      "${where}.memoryLimit is \"${toString user.memoryLimit}\", which is no size; write for example \"3G\" or \"2560M\"."
    ++
      lib.optional (own "memoryHigh" && user.memoryHigh != null && (high == null || high == 0))
        "${where}.memoryHigh is \"${toString user.memoryHigh}\", which is no size; write for example \"2560M\", or leave it out for five sixths of memoryLimit."
    ++
      lib.optional
        (
          (own "memoryHigh" || own "memoryLimit")
          && high != null
          && limit != null
          && limit > 0
          && high > limit
        )
        "${origin "memoryHigh"}.memoryHigh (${toString user.memoryHigh}) is above ${origin "memoryLimit"}.memoryLimit (${toString user.memoryLimit}), and would never be reached; ${
          if own "memoryHigh" then
            "lower it, or leave it out for five sixths of memoryLimit"
          else
            "set ${where}.memoryHigh, or leave ${everyone}.memoryHigh out for five sixths of memoryLimit"
        }."
    ++
      lib.optional (own "cpuLimit" && (cpus == null || cpus < 10))
        "${where}.cpuLimit is \"${ours.written user.cpuLimit}\", which is no number of CPUs; write for example \"1.5\" or \"2\".";

  person =
    name: user:
    let
      where = "${option}.users.${name}";
      other = config.users.users.${ours.account name};
    in
    lib.optional (!ours.validName name)
      "${option}.users.\"${name}\": a name is 1 to 20 lower-case letters, digits and single dashes, a letter first, because it is part of a DNS name; write for example \"anna-lena\"."
    ++ lib.optional (lib.elem name ours.reservedNames) "${where}: the name is reserved, as the host ${name}.${cfg.internal.domain} is expected to be something else; give this person another name."
    ++
      lib.optional (other.isNormalUser || other.description != "workspaces of ${name}")
        "${where}: the account ${ours.account name} is declared elsewhere too (users.users.${ours.account name}); rename that account, or this person."
    ++
      lib.optional (user.passwordFile == null)
        "${where}.passwordFile is not set; name a file that holds the password, or its hash from \"csm hash-password\", or set ${option}.sops.enable."
    ++ inStore "${where}.passwordFile" user.passwordFile
    ++ secrets where user
    ++ amounts where user
    ++ lib.optional (
      user.port != null && user.port < 1024
    ) "${where}.port is ${toString user.port}; choose one from 1024.";

  # The value of a variable that looks like the path of a secret was meant as its content.
  paths =
    where: environment:
    lib.concatLists (
      lib.mapAttrsToList (
        name: value:
        lib.optional (lib.hasPrefix "/run/secrets" value || lib.hasPrefix "/run/agenix" value)
          "${where}.environment.${name} is the path ${value}: the workspace gets that text, not what is in the file, which it can't read. Move the line to ${where}.secretEnvironment, which takes the file's content."
      ) environment
    );
in
{
  config = lib.mkIf cfg.enable {
    assertions = map ours.refuse (system ++ lib.concatLists (lib.mapAttrsToList person cfg.users));

    warnings =
      lib.optional (cfg.domain == null)
        "${option}.domain is not set: the workspaces are reachable on this machine alone, at http://<name>.code.localhost:${toString cfg.listen.port}. Set it to a DNS name for everyone else."
      ++
        lib.optional (cfg.domain != null && !ours.isLocalhost cfg.domain && certificates == [ ])
          "${option}: there is no certificate, so nginx listens on ${cfg.listen.address}:${toString cfg.listen.port} for another proxy that ends TLS on port 443. Set acme.dnsProvider to have one made."
      ++ paths "${option}.defaults" defaults.environment
      ++ lib.concatLists (
        lib.mapAttrsToList (name: user: paths "${option}.users.${name}" user.environment) cfg.users
      );
  };
}
