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
  firstAllocated = 100000;

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

  # The ranges that the configuration sets explicitly. NixOS allocates those of most users, whose options it need not evaluate for this.
  explicit =
    let
      allocated = lib.mapAttrsToList (name: _: ours.account name) (
        lib.filterAttrs (_: user: user.subIdStart == null) cfg.users
      );
      rangesOf =
        name: user:
        lib.unique (
          map (range: {
            inherit name;
            isOurs = lib.hasPrefix "csm-" name;
            first = range.startUid or range.startGid;
            last = (range.startUid or range.startGid) + range.count - 1;
          }) (user.subUidRanges ++ user.subGidRanges)
        );
    in
    lib.concatLists (lib.mapAttrsToList rangesOf (lib.removeAttrs config.users.users allocated));
  describe = range: "${range.name} (${toString range.first} to ${toString range.last})";

  # Messages about explicit ranges that overlap, if one of the two is a user's. In order of their starts, a range overlaps an earlier one
  # exactly if it overlaps the one that reaches furthest.
  overlaps =
    let
      further = one: other: if one == null || other.last > one.last then other else one;
      step =
        {
          furthest,
          furthestOfUsers,
          messages,
        }:
        range:
        let
          earlier = if range.isOurs then furthest else furthestOfUsers;
        in
        {
          furthest = further furthest range;
          furthestOfUsers = if range.isOurs then further furthestOfUsers range else furthestOfUsers;
          messages =
            messages
            ++
              lib.optional (earlier != null && earlier.last >= range.first)
                "the subordinate ids of ${describe earlier} and ${describe range} overlap; give each a separate range, with ${option}.users.<name>.subIdStart for a user.";
        };
    in
    (lib.foldl' step {
      furthest = null;
      furthestOfUsers = null;
      messages = [ ];
    } (lib.sort (one: other: one.first < other.first) explicit)).messages;

  # Messages about explicit ranges among those that NixOS allocates itself, which does not heed them.
  amongAllocated =
    let
      accounts = lib.attrValues (lib.filterAttrs (_: user: user.autoSubUidGidRange) config.users.users);
      count = lib.length accounts;
      end = firstAllocated + count * rangeLength;
      others = "${toString count} other account${if count == 1 then "" else "s"}";
      allocatesToUser = lib.length (lib.attrNames given) < lib.length userNames;
      message =
        range:
        if range.isOurs then
          let
            name = lib.removePrefix "csm-" range.name;
          in
          "${option}.users.${name}.subIdStart is ${toString range.first}, among the ranges that NixOS allocates to ${others}; choose one from ${toString end}, and leave room for more accounts."
        else
          "the subordinate ids of ${describe range} are among those that NixOS allocates to ${others} (${toString firstAllocated} to ${toString (end - 1)}); set users.users.${range.name}.subUidRanges and subGidRanges to ranges from ${toString end}, and leave room for more accounts.";
    in
    map message (
      lib.filter (
        range: range.first < end && range.last >= firstAllocated && (range.isOurs || allocatesToUser)
      ) explicit
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
      ++ amongAllocated
      ++ overlaps
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
