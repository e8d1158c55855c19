# An account for each user, without a password or a shell, and the daemon's account.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  userNames = lib.attrNames cfg.users;
  option = "services.code-server-multi";

  # The usual size of a range of subordinate ids; a container needs that many.
  rangeLength = 65536;
  # The first subordinate id that NixOS allocates; its ranges follow each other.
  firstGiven = 100000;

  directories =
    name:
    let
      account = ours.account name;
      home = "${cfg.workspaceBase}/${name}";
    in
    lib.concatStringsSep "\n" [
      "d ${home} 0700 ${account} ${account} -"
      "d ${home}/home 0700 ${account} ${account} -"
      "d ${home}/workspace 0700 ${account} ${account} -"
      # Podman's storage; the launcher creates a directory in it for each workspace.
      "d ${ours.workspaceState cfg name} 0700 ${account} ${account} -"
      # The workspace's socket: of other accounts, only nginx can enter.
      "d ${cfg.internal.run}/ws/${name} 0710 ${account} ${config.services.nginx.group} -"
      # The secrets that the unit copies there: no other account can enter.
      "d ${cfg.internal.run}/secrets/${name} 0700 ${account} ${account} -"
    ];

  account =
    name: user:
    {
      isSystemUser = true;
      group = ours.account name;
      description = "workspaces of ${name}";
      home = "${cfg.workspaceBase}/${name}";
    }
    # A range that no other account has, so that no account on the host is a container's root.
    // (
      if user.subIdStart == null then
        { autoSubUidGidRange = true; }
      else
        {
          subUidRanges = [
            {
              startUid = user.subIdStart;
              count = rangeLength;
            }
          ];
          subGidRanges = [
            {
              startGid = user.subIdStart;
              count = rangeLength;
            }
          ];
        }
    )
    // lib.optionalAttrs (user.uid != null) { inherit (user) uid; };

  given = lib.filterAttrs (_: user: user.subIdStart != null) cfg.users;

  # Why /etc/subuid will have no ranges, with the option that causes it; null if it will have them.
  writesNoRanges =
    if config.systemd.sysusers.enable then
      "systemd.sysusers.enable is set, and systemd-sysusers writes no subordinate ids"
    else if
      options.services ? userborn
      && config.services.userborn.enable
      && !lib.versionAtLeast config.services.userborn.package.version "1.0"
    then
      "services.userborn.enable is set, and userborn ${config.services.userborn.package.version} writes no subordinate ids"
    else
      null;

  # Messages about overlapping ranges, among all ranges that the configuration sets explicitly.
  overlaps =
    let
      rangesOf =
        name: user:
        lib.optionals (user.subUidRanges != [ ] || user.subGidRanges != [ ]) (
          lib.unique (
            map (range: {
              inherit name;
              first = range.startUid or range.startGid;
              inherit (range) count;
            }) (user.subUidRanges ++ user.subGidRanges)
          )
        );
      all = lib.sort (one: other: one.first < other.first) (
        lib.concatLists (lib.mapAttrsToList rangesOf config.users.users)
      );
      last = range: range.first + range.count - 1;
      words = range: "${range.name} (${toString range.first} to ${toString (last range)})";
      pairs = lib.zipLists all (lib.drop 1 all);
      shared = lib.filter (
        pair:
        last pair.fst >= pair.snd.first
        && lib.any (name: lib.hasPrefix "csm-" name) [
          pair.fst.name
          pair.snd.name
        ]
      ) pairs;
    in
    map (
      pair:
      "the subordinate ids of ${words pair.fst} and ${words pair.snd} overlap; give each a separate range, with ${option}.users.<name>.subIdStart for a user."
    ) shared;

  # Messages about ranges among those that NixOS allocates itself.
  amongGiven =
    let
      count = lib.count (user: user.autoSubUidGidRange) (lib.attrValues config.users.users);
      end = firstGiven + count * rangeLength;
    in
    lib.concatLists (
      lib.mapAttrsToList (
        name: user:
        lib.optional (user.subIdStart < end)
          "${option}.users.${name}.subIdStart is ${toString user.subIdStart}, among the ranges that NixOS allocates to ${toString count} other account${
            if count == 1 then "" else "s"
          }; choose one from ${toString end}, and leave room for more accounts."
      ) given
    );

  # NixOS allocates ids to accounts and groups whose id is not set. If they run out, the switch fails half-way.
  numbers =
    let
      most = 600;
      without = lib.count (user: user.isSystemUser && user.uid == null) (
        lib.attrValues config.users.users
      );
      groupsWithout = lib.count (group: group.gid == null) (lib.attrValues config.users.groups);
    in
    lib.optional (lib.max without groupsWithout > most)
      "${option}: ${toString (lib.max without groupsWithout)} accounts and groups have no id set, and NixOS has ${toString most} ids (400 to 999) to allocate; set users.<name>.uid for the users, for example from 20000.";
in
{
  config = lib.mkIf cfg.enable {
    assertions = map ours.refuse (
      lib.optional (writesNoRanges != null && !(config.environment.etc ? subuid))
        "${option}: ${writesNoRanges}, without which no container starts; turn it off, or set environment.etc.subuid.text and environment.etc.subgid.text yourself, a line \"csm-<name>:<first>:65536\" for each user."
      ++ numbers
      ++ lib.optionals (given != { }) (amongGiven ++ overlaps)
    );

    users.users = {
      code-server-multi = {
        isSystemUser = true;
        group = "code-server-multi";
        description = "code-server-multi's daemon";
      };
    }
    // lib.mapAttrs' (name: user: lib.nameValuePair (ours.account name) (account name user)) cfg.users;

    users.groups = {
      code-server-multi = { };
    }
    // lib.mapAttrs' (
      name: user:
      lib.nameValuePair (ours.account name) (lib.optionalAttrs (user.uid != null) { gid = user.uid; })
    ) cfg.users;

    virtualisation.podman.enable = true;

    systemd.tmpfiles.rules = [
      "d ${cfg.workspaceBase} 0755 root root -"
      "d ${cfg.stateBase}/code-server-multi 0700 code-server-multi code-server-multi -"
      "d ${cfg.stateBase}/code-server-workspaces 0755 root root -"
      "d ${cfg.internal.run} 0711 code-server-multi code-server-multi -"
      # The daemon's too: systemd-tmpfiles refuses a path whose owner changes twice, from root to one account and then to another.
      "d ${cfg.internal.run}/ws 0711 code-server-multi code-server-multi -"
      "d ${cfg.internal.run}/secrets 0711 code-server-multi code-server-multi -"
    ]
    # One text with all rules, because NixOS evaluates each rule slowly.
    ++ lib.optional (userNames != [ ]) (lib.concatMapStringsSep "\n" directories userNames);
  };
}
