# The daemon: sign-in, dashboard, starting and stopping workspaces. It runs as an unprivileged account. Workspaces continue when it exits.
{ config, lib, ... }:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  state = "${cfg.stateBase}/code-server-multi";
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal.run = "/run/code-server-multi";

    systemd.services.code-server-multi = {
      description = "Sign-in and dashboard of code-server-multi";
      wantedBy = [ "multi-user.target" ];
      wants = [ "code-server-multi-passwords.service" ];
      after = [
        "code-server-multi-passwords.service"
        "dbus.socket"
        "polkit.service"
      ];
      # A reload passes the passwords to the daemon first: passwordFile may have changed.
      reloadTriggers = [
        cfg.internal.manifestFile
        (builtins.toJSON (lib.mapAttrs (_: user: user.passwordFile) cfg.users))
      ];
      # The cause of a failure, such as a full disk, can pass; systemd must still be restarting the daemon then.
      startLimitIntervalSec = 0;
      unitConfig.RequiresMountsFor = [
        state
        cfg.workspaceBase
      ];
      environment.STATE_DIRECTORY = state;
      # One restart instead of a stop and a start: the sockets are missing only for a moment.
      stopIfChanged = false;
      serviceConfig = ours.confined // {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/csm daemon ${cfg.internal.manifestPath}";
        ExecReload = [
          # New users' passwords first. "+" runs it as root, because the daemon's account may not start this unit.
          "+${config.systemd.package}/bin/systemctl start code-server-multi-passwords.service"
          "/bin/sh -c 'kill -HUP \"$MAINPID\"'"
        ];
        User = "code-server-multi";
        Group = "code-server-multi";
        # Lets the daemon show the workspaces' logs to owners and admins.
        SupplementaryGroups = [ "systemd-journal" ];
        RuntimeDirectory = "code-server-multi";
        # Launchers and nginx must reach directories below it; each socket is guarded separately.
        RuntimeDirectoryMode = "0711";
        # It contains the workspaces' sockets, which must survive the daemon's restart.
        RuntimeDirectoryPreserve = true;
        ReadWritePaths = [ state ];
        WatchdogSec = "30s";
        Restart = "always";
        RestartSec = "1s";
      };
    };
  };
}
