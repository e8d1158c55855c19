# Each person's own account, without a password or a shell, and the daemon's.
{ config, lib, ... }:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  people = lib.attrNames cfg.users;
in
{
  config = lib.mkIf cfg.enable {
    users.users = {
      code-server-multi = {
        isSystemUser = true;
        group = "code-server-multi";
        description = "code-server-multi's daemon";
      };
    }
    // lib.listToAttrs (
      map (
        name:
        lib.nameValuePair (ours.account name) {
          isSystemUser = true;
          group = ours.account name;
          description = "workspaces of ${name}";
          home = "${cfg.workspaceBase}/${name}";
          # Ranges that nobody else has: what a container calls root is nobody on this machine.
          autoSubUidGidRange = true;
        }
      ) people
    );

    users.groups = {
      code-server-multi = { };
    }
    // lib.genAttrs (map ours.account people) (_: { });

    virtualisation.podman.enable = true;

    systemd.tmpfiles.rules = [
      "d ${cfg.workspaceBase} 0755 root root -"
      "d ${cfg.stateBase}/code-server-multi 0700 code-server-multi code-server-multi -"
      "d ${cfg.stateBase}/code-server-workspaces 0755 root root -"
      "d ${cfg.internal.run} 0711 code-server-multi code-server-multi -"
      # The daemon's as well: systemd makes nothing for somebody else below what belongs first to one account and then to another.
      "d ${cfg.internal.run}/ws 0711 code-server-multi code-server-multi -"
      "d ${cfg.internal.run}/secrets 0711 code-server-multi code-server-multi -"
    ]
    ++ lib.concatMap (
      name:
      let
        account = ours.account name;
        home = "${cfg.workspaceBase}/${name}";
      in
      [
        "d ${home} 0700 ${account} ${account} -"
        "d ${home}/home 0700 ${account} ${account} -"
        "d ${home}/workspace 0700 ${account} ${account} -"
        # Podman's storage, which the launcher makes for each workspace.
        "d ${ours.workspaceState cfg name} 0700 ${account} ${account} -"
        # Its workspace's socket: nginx may pass, nobody else.
        "d ${cfg.internal.run}/ws/${name} 0710 ${account} ${config.services.nginx.group} -"
        # Its secrets, which the unit copies there: nobody else may pass.
        "d ${cfg.internal.run}/secrets/${name} 0700 ${account} ${account} -"
      ]
    ) people;
  };
}
