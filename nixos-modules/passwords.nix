# Passwords for the daemon, which may read no secret itself: systemd reads each as root, and a process of the daemon's account
# puts them where the daemon looks. A unit of its own, so that a new person or password restarts nothing.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  given = lib.filterAttrs (_: user: user.passwordFile != null) cfg.users;
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal.passwords = "/run/code-server-multi-passwords";

    systemd.services.code-server-multi-passwords = {
      description = "Passwords of code-server-multi";
      # Each password that changes, and each reload of the daemon, runs it: many at once are no failure.
      startLimitIntervalSec = 0;
      serviceConfig = ours.confined // {
        Type = "oneshot";
        User = "code-server-multi";
        Group = "code-server-multi";
        RuntimeDirectory = "code-server-multi-passwords";
        RuntimeDirectoryMode = "0700";
        # They stay when this has ended.
        RuntimeDirectoryPreserve = true;
        LoadCredential = lib.mapAttrsToList (
          name: user: "${name}:${ours.unitPath user.passwordFile}"
        ) given;
        # A file that is not there becomes an empty line, as systemd takes nothing emptier: that person can't sign in, all others can.
        SetCredential = lib.mapAttrsToList (name: _: "${name}:\\n") given;
        SystemCallFilter = "@system-service";
      };
      path = [ pkgs.coreutils ];
      script = ''
        cd "$RUNTIME_DIRECTORY"
        for old in *; do
          [ -e "$CREDENTIALS_DIRECTORY/$old" ] || rm -f "$old"
        done
        for new in "$CREDENTIALS_DIRECTORY"/*; do
          [ -e "$new" ] || continue
          # Whole or not at all: the daemon may be reading.
          cp "$new" ".new"
          mv .new "''${new##*/}"
        done
      '';
    };

    # A password that is changed on the disk is in force at once.
    systemd.paths.code-server-multi-passwords = {
      wantedBy = [ "paths.target" ];
      pathConfig.PathChanged = lib.mapAttrsToList (_: user: ours.unitPath user.passwordFile) given;
    };
  };
}
