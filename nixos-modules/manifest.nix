# The manifest: what the daemon and the launchers go by. It is a file of its own, so that a change of it changes no unit.
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

  # Only what is not the manifest's own default, so that a file of many people stays small and its changes readable.
  given = lib.filterAttrs (_: value: value != null && value != { } && value != [ ] && value != false);

  person =
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
      packages = packages (defaults.packages ++ user.packages);
    };

  # One environment for all who have the same packages.
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
          # Whatever address nginx listens on: of this the daemon takes browsers' port.
          listen = "0.0.0.0:${toString cfg.httpsPort}";
          inherit (tls) certificate certificateKey;
        };
    users = lib.mapAttrs person cfg.users;
  };
in
{
  options.services.code-server-multi.internal = lib.mkOption {
    type = lib.types.lazyAttrsOf lib.types.raw;
    internal = true;
    visible = false;
    description = "What the module's files tell each other.";
  };

  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal = {
      domain = if cfg.domain == null then "code.localhost" else cfg.domain;
      # The link in /etc changes its target and keeps its name.
      manifestPath = "/etc/code-server-multi/manifest.json";
      # The same program that will read it checks it, when the system is built.
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
