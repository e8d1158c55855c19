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
  each =
    line:
    lib.concatStrings (
      lib.mapAttrsToList (name: user: line name (ours.unitPath user.passwordFile)) given
    );
  given = lib.filterAttrs (_: user: user.passwordFile != null) cfg.users;
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal = {
      passwords = "/run/code-server-multi-passwords";
      passwordUnits = {
        "code-server-multi-passwords.service.d/credentials.conf" = ''
          [Service]
          # A file that is not there becomes an empty line, as systemd takes nothing emptier: that person can't sign in, all others can.
          ${each (
            name: path: ''
              LoadCredential=${name}:${path}
              SetCredential=${name}:\n
            ''
          )}'';
        # A password that is changed on the disk is in force at once.
        "code-server-multi-passwords.path" = ''
          [Unit]
          Description=Changes of passwords of code-server-multi

          [Path]
          ${each (_: path: "PathChanged=${path}\n")}'';
      };
    };

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
        PrivateUsers = true;
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

    systemd.paths.code-server-multi-passwords.wantedBy = [ "paths.target" ];
  };
}
