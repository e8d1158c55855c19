# What the daemon may ask of systemd: to start, stop, freeze and thaw the workspaces' units, and nothing else.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
in
{
  config = lib.mkIf cfg.enable {
    # systemd's own policy for the system bus, which comes before polkit, knows of starting and stopping, and not of freezing.
    services.dbus.packages = [
      (pkgs.writeTextDir "share/dbus-1/system.d/code-server-multi.conf" ''
        <!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
          "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
        <busconfig>
          <policy user="code-server-multi">
            <allow send_destination="org.freedesktop.systemd1"
              send_interface="org.freedesktop.systemd1.Manager" send_member="FreezeUnit"/>
            <allow send_destination="org.freedesktop.systemd1"
              send_interface="org.freedesktop.systemd1.Manager" send_member="ThawUnit"/>
          </policy>
        </busconfig>
      '')
    ];

    security.polkit.enable = true;
    # Units of people who are declared no more must be stoppable, so the rule goes by the form of the name.
    security.polkit.extraConfig = ''
      polkit.addRule(function (action, subject) {
        if (subject.user !== "code-server-multi" || action.id !== "org.freedesktop.systemd1.manage-units") {
          return polkit.Result.NOT_HANDLED;
        }
        var name = "[a-z][a-z0-9]*(-[a-z0-9]+)*";
        var unit = new RegExp("^code-server-" + name + "@" + name + "\\.service$");
        var verbs = ["start", "stop", "restart", "freeze", "thaw"];
        var ours = unit.test(action.lookup("unit")) && verbs.indexOf(action.lookup("verb")) >= 0;
        return ours ? polkit.Result.YES : polkit.Result.NO;
      });
    '';
  };
}
