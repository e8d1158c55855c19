# Passwords for the daemon, which may not read secrets itself: systemd reads each one as root, and a process of the daemon's account
# writes them where the daemon reads them. This is a separate unit, so that a new user or password does not restart the daemon.
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
          # A missing file becomes an empty line, as systemd accepts no empty value: only that user can't sign in.
          ${each (
            name: path: ''
              LoadCredential=${name}:${path}
              SetCredential=${name}:\n
            ''
          )}'';
        # A password that changes on disk takes effect immediately.
        "code-server-multi-passwords.path" = ''
          [Unit]
          Description=Changes of passwords of code-server-multi

          [Path]
          ${each (_: path: "PathChanged=${path}\n")}'';
      };
    };

    systemd.services.code-server-multi-passwords = {
      description = "Passwords of code-server-multi";
      # Each changed password and each reload of the daemon start it; many starts in a short time are not a failure.
      startLimitIntervalSec = 0;
      serviceConfig = ours.confined // {
        Type = "oneshot";
        User = "code-server-multi";
        Group = "code-server-multi";
        RuntimeDirectory = "code-server-multi-passwords";
        RuntimeDirectoryMode = "0700";
        # The passwords stay when the unit has exited.
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
          # Replaces the file in one step, because the daemon may be reading it.
          cp "$new" ".new"
          mv .new "''${new##*/}"
        done
      '';
    };

    systemd.paths.code-server-multi-passwords.wantedBy = [ "paths.target" ];
  };
}
