# With sops-nix, when it is there: each person's password is a secret of its own. It is no input of this flake.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.services.code-server-multi;
in
{
  config = lib.mkIf (cfg.enable && cfg.sops.enable) (
    lib.optionalAttrs (options ? sops) {
      sops.secrets = lib.mapAttrs' (
        name: _:
        lib.nameValuePair "code-server-${name}" {
          # Root's alone. What hands it to the daemon runs again when it changes; nobody is signed out or stopped.
          restartUnits = [ "code-server-multi-passwords.service" ];
        }
      ) cfg.users;
    }
  );
}
