# Allows the daemon to start, stop, freeze and thaw the workspaces' units, and no other change in systemd.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  allow =
    method:
    ''<allow send_destination="org.freedesktop.systemd1" send_interface="org.freedesktop.systemd1.Manager" send_member="${method}"/>'';
in
{
  config = lib.mkIf cfg.enable {
    # The messages that the daemon's account may send to systemd. polkit alone is not enough: it does not distinguish starting a unit
    # from starting a transient unit of that name, whose sender chooses the command and the account. And systemd's own policy does not
    # allow freezing.
    services.dbus.packages = [
      (pkgs.writeTextDir "share/dbus-1/system.d/code-server-multi.conf" ''
        <!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
          "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
        <busconfig>
          <policy user="code-server-multi">
            <deny send_destination="org.freedesktop.systemd1"/>
            ${lib.concatMapStringsSep "\n    " allow [
              "Subscribe"
              "ListUnitsByPatterns"
              "StartUnit"
              "StopUnit"
              "FreezeUnit"
              "ThawUnit"
            ]}
            <allow send_destination="org.freedesktop.systemd1" send_interface="org.freedesktop.DBus.Properties" send_member="Get"/>
          </policy>
        </busconfig>
      '')
    ];

    security.polkit.enable = true;
    # The daemon must be able to stop the units of removed users, so the rule checks the form of the name, not a list of names.
    security.polkit.extraConfig = ''
      polkit.addRule(function (action, subject) {
        if (subject.user !== "code-server-multi" || action.id !== "org.freedesktop.systemd1.manage-units") {
          return polkit.Result.NOT_HANDLED;
        }
        var name = "[a-z][a-z0-9]*(-[a-z0-9]+)*";
        var unit = new RegExp("^code-server-" + name + "@" + name + "\\.service$");
        var verbs = ["start", "stop", "freeze", "thaw"];
        var ours = unit.test(action.lookup("unit")) && verbs.indexOf(action.lookup("verb")) >= 0;
        return ours ? polkit.Result.YES : polkit.Result.NO;
      });
    '';
  };
}
