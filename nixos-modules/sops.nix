# sops.enable: declares one sops-nix secret for each user's password. The configuration imports sops-nix; this module does not.
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
          # Only root can read the secret. If it changes, this unit passes it to the daemon; no workspace stops.
          restartUnits = [ "code-server-multi-passwords.service" ];
        }
      ) cfg.users;
    }
  );
}
