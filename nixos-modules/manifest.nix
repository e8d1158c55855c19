# The manifest, which the daemon and the launchers read. It is a separate file, so that changing it changes no unit.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  inherit (cfg) defaults;
  ours = import ./lib.nix { inherit lib; };
  inherit (cfg.internal) tls;

  # Omits the manifest's defaults, so that a file with many users stays small and its changes readable.
  given = lib.filterAttrs (_: value: value != null && value != { } && value != [ ] && value != false);

  manifestUser =
    name: user:
    given {
      passwordFile = "${cfg.internal.passwords}/${name}";
      inherit (user)
        admin
        autoStart
        memoryHigh
        tasksLimit
        port
        ;
      image = cfg.internal.image user;
      memoryLimit = toString user.memoryLimit;
      cpuLimit = ours.written user.cpuLimit;
      environment = defaults.environment // user.environment;
      secretEnvironment = ours.secretEnvironment cfg user;
      secretFiles = lib.mapAttrs (_: file: { inherit (file) source mode; }) (ours.secretFiles cfg user);
      hostServices = lib.unique (defaults.hostServices ++ user.hostServices);
      extensions = lib.unique (defaults.extensions ++ user.extensions);
      settings = defaults.settings // user.settings;
      autostop = defaults.autostop // user.autostop;
      update = defaults.update // user.update;
      packages = packages (defaults.packages ++ user.packages);
    };

  # Users with the same packages share one environment.
  packages =
    wanted:
    if wanted == [ ] then
      null
    else
      "${pkgs.buildEnv {
        name = "code-server-multi-packages";
        paths = wanted;
        pathsToLink = [
          "/bin"
          "/share"
        ];
      }}";

  manifest = {
    version = 1;
    domain = cfg.internal.domain;
    inherit (cfg) workspaceBase;
    image = cfg.internal.baseImage;
    frontDoor =
      if tls == null then
        { listen = "${cfg.listen.address}:${toString cfg.listen.port}"; }
      else
        {
          # The daemon uses only the port, as the one in browsers' addresses; nginx's options set the real address.
          listen = "0.0.0.0:${toString cfg.httpsPort}";
          inherit (tls) certificate certificateKey;
        };
    users = lib.mapAttrs manifestUser cfg.users;
  };

  option = "services.code-server-multi";

  # The options for the fields of the manifest. A user's options have the same names as the fields.
  optionOf = {
    domain = "domain";
    workspaceBase = "workspaceBase";
    image = "baseImage";
  };
  frontDoorOptionOf = {
    listen = "listen or httpsPort";
    certificate = "certificate";
    certificateKey = "certificateKey";
  };

  # Messages about fields in `settings` that have an option: accounts, units and nginx would not follow them.
  misplaced =
    let
      inherit (cfg) settings;
      instead =
        path: name:
        "${option}.settings.${path} would change only the manifest; remove it, and set ${option}.${name}.";
      fields =
        path: set: options:
        lib.mapAttrsToList (field: instead "${path}${field}") (lib.intersectAttrs set options);
      ofUser =
        name: set:
        if !cfg.users ? ${name} then
          [
            "${option}.settings.users.${name} is not for a user in ${option}.users; add ${option}.users.${name}, or remove it."
          ]
        else
          lib.optionals (isSet "users.${name}" set == [ ]) (
            fields "users.${name}." set (lib.mapAttrs (field: _: "users.${name}.${field}") cfg.users.${name})
          )
          ++ isSet "users.${name}" set;
      isSet =
        path: value:
        lib.optional (
          !lib.isAttrs value
        ) "${option}.settings.${path} is not a set; write for example ${path}.field = value.";
      users = settings.users or { };
      frontDoor = settings.frontDoor or { };
    in
    lib.optional (
      settings ? version
    ) "${option}.settings.version is not the version that the module writes; remove it."
    ++ fields "" settings optionOf
    ++ isSet "frontDoor" frontDoor
    ++ lib.optionals (lib.isAttrs frontDoor) (fields "frontDoor." frontDoor frontDoorOptionOf)
    ++ isSet "users" users
    ++ lib.optionals (lib.isAttrs users) (lib.concatLists (lib.mapAttrsToList ofUser users));
in
{
  options.services.code-server-multi.internal = lib.mkOption {
    type = lib.types.lazyAttrsOf lib.types.raw;
    internal = true;
    visible = false;
    description = "Values that the module's files share.";
  };

  config = lib.mkIf cfg.enable {
    assertions = map ours.refuse misplaced;

    services.code-server-multi.internal = {
      domain = if cfg.domain == null then "code.localhost" else cfg.domain;
      # A switch changes the target of this link, not its name.
      manifestPath = "/etc/code-server-multi/manifest.json";
      # Checks the manifest when the system is built, with the program that will read it.
      manifestFile =
        pkgs.runCommand "code-server-multi-manifest.json"
          {
            manifest = builtins.toJSON (lib.recursiveUpdate manifest cfg.settings);
            passAsFile = [ "manifest" ];
            preferLocalBuild = true;
          }
          ''
            cp "$manifestPath" manifest.json
            ${cfg.package}/bin/csm check --text-only manifest.json
            cp manifest.json "$out"
          '';
    };
    environment.etc."code-server-multi/manifest.json".source = cfg.internal.manifestFile;
    environment.systemPackages = [ cfg.package ];
  };
}
