# Each person's own account, without a password or a shell, and the daemon's.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  people = lib.attrNames cfg.users;
  option = "services.code-server-multi";

  # A container needs this many subordinate ids: the usual range.
  rangeLength = 65536;
  # Where NixOS begins with the ranges that it gives, one after the other.
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
      # Podman's storage, which the launcher makes for each workspace.
      "d ${ours.workspaceState cfg name} 0700 ${account} ${account} -"
      # Its workspace's socket: nginx may pass, nobody else.
      "d ${cfg.internal.run}/ws/${name} 0710 ${account} ${config.services.nginx.group} -"
      # Its secrets, which the unit copies there: nobody else may pass.
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
    # Ranges that nobody else has: what a container calls root is nobody on this machine.
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

  # Who writes /etc/subuid, if it is none that knows ranges, by the option that chose it.
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

  # All ranges that are written down, the lowest first, and the two that overlap.
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
      "the subordinate ids of ${words pair.fst} and ${words pair.snd} overlap; give each a range of its own, with ${option}.users.<name>.subIdStart for a person."
    ) shared;

  # Ranges in which NixOS gives some itself.
  amongGiven =
    let
      count = lib.count (user: user.autoSubUidGidRange) (lib.attrValues config.users.users);
      end = firstGiven + count * rangeLength;
    in
    lib.concatLists (
      lib.mapAttrsToList (
        name: user:
        lib.optional (user.subIdStart < end)
          "${option}.users.${name}.subIdStart is ${toString user.subIdStart}, among the ranges that NixOS gives to ${toString count} other account${
            if count == 1 then "" else "s"
          }; choose one from ${toString end}, with some room for more."
      ) given
    );

  # NixOS' own numbers for accounts and groups that are given none. When they run out, the switch fails half-way.
  numbers =
    let
      most = 600;
      without = lib.count (user: user.isSystemUser && user.uid == null) (
        lib.attrValues config.users.users
      );
      groupsWithout = lib.count (group: group.gid == null) (lib.attrValues config.users.groups);
    in
    lib.optional (lib.max without groupsWithout > most)
      "${option}: ${toString (lib.max without groupsWithout)} accounts and groups of this machine have no id of their own, and NixOS has ${toString most} ids (400 to 999) for accounts that are given none; set users.<name>.uid of people, for example from 20000.";
in
{
  config = lib.mkIf cfg.enable {
    assertions = map ours.refuse (
      lib.optional (writesNoRanges != null && !(config.environment.etc ? subuid))
        "${option}: ${writesNoRanges}, without which no container starts; leave it off, or write them yourself: environment.etc.subuid.text and environment.etc.subgid.text, a line \"csm-<name>:<first>:65536\" for each person."
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
      # The daemon's as well: systemd makes nothing for somebody else below what belongs first to one account and then to another.
      "d ${cfg.internal.run}/ws 0711 code-server-multi code-server-multi -"
      "d ${cfg.internal.run}/secrets 0711 code-server-multi code-server-multi -"
    ]
    # One text: NixOS takes its time with each rule.
    ++ lib.optional (people != [ ]) (lib.concatMapStringsSep "\n" directories people);
  };
}
