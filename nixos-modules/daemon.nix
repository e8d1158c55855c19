# The daemon: sign-in, dashboard, starting and stopping. It is nobody in particular, and its end ends no workspace.
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
      # A reload hands over the passwords first: another file may have another one.
      reloadTriggers = [
        cfg.internal.manifestFile
        (builtins.toJSON (lib.mapAttrs (_: user: user.passwordFile) cfg.users))
      ];
      # What keeps it down, such as a full disk, can pass; it must not have given up by then.
      startLimitIntervalSec = 0;
      unitConfig.RequiresMountsFor = [
        state
        cfg.workspaceBase
      ];
      environment.STATE_DIRECTORY = state;
      # Its sockets are gone for a moment only.
      stopIfChanged = false;
      serviceConfig = ours.confined // {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/csm daemon ${cfg.internal.manifestPath}";
        ExecReload = [
          # New people's passwords first; as root, like this unit's start would have it.
          "+${config.systemd.package}/bin/systemctl start code-server-multi-passwords.service"
          "/bin/sh -c 'kill -HUP \"$MAINPID\"'"
        ];
        User = "code-server-multi";
        Group = "code-server-multi";
        # What workspaces printed, for their owners and the dashboard.
        SupplementaryGroups = [ "systemd-journal" ];
        RuntimeDirectory = "code-server-multi";
        # People's launchers and nginx pass through; each socket has its own guard.
        RuntimeDirectoryMode = "0711";
        # The workspaces' sockets are in there, and they outlive the daemon.
        RuntimeDirectoryPreserve = true;
        ReadWritePaths = [ state ];
        WatchdogSec = "30s";
        Restart = "always";
        RestartSec = "1s";
      };
    };
  };
}
