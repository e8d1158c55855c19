# A template unit for each person's workspaces, in a slice that carries their limits. A switch leaves running ones alone: a
# change takes effect at the next start, and the dashboard says that it waits.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };

  # systemd reads secrets as root and hands them to the unit. A file that is not there becomes an empty line, which stops this
  # workspace alone, and the launcher says which it was.
  credential = id: path: {
    load = "${id}:${path}";
    empty = "${id}:\\n";
  };
  credentials =
    user:
    lib.mapAttrsToList (name: credential "environment.${name}") (ours.secretEnvironment cfg user)
    ++ lib.imap0 (at: file: credential "files.${toString at}" file.source) (
      lib.attrValues (ours.secretFiles cfg user)
    );

  high =
    user:
    if user.memoryHigh != null then
      toString user.memoryHigh
    else
      toString (ours.bytes user.memoryLimit / 6 * 5);

  service = name: user: {
    description = "Workspace %i of ${name}";
    restartIfChanged = false;
    stopIfChanged = false;
    # Who may start it, and how often, is the daemon's to say; many tries at once would hide the reason of the first.
    startLimitIntervalSec = 0;
    path = [
      config.virtualisation.podman.package
      # newuidmap and newgidmap, which are privileged.
      "/run/wrappers"
    ];
    environment = {
      HOME = "%S/code-server-workspaces/${name}/%i";
      XDG_RUNTIME_DIR = "%t/code-server-workspaces/${name}/%i";
      CSM_RUN_DIRECTORY = cfg.internal.run;
    };
    serviceConfig = {
      Type = "notify";
      NotifyAccess = "main";
      ExecStart = "${cfg.package}/bin/csm launch ${cfg.internal.manifestPath} ${name}";
      User = ours.account name;
      Group = ours.account name;
      Slice = "${ours.slice name}.slice";
      # Podman makes a cgroup for the container inside the unit's own, so that the slice's limits hold for all of it.
      Delegate = true;
      # SIGTERM to the launcher, which ends the container in order; SIGKILL to whatever is left.
      KillMode = "mixed";
      # One process that runs out of memory is not the end of the others.
      OOMPolicy = "continue";
      RuntimeDirectory = "code-server-workspaces/${name}/%i";
      RuntimeDirectoryMode = "0700";
      StateDirectory = "code-server-workspaces/${name}/%i";
      StateDirectoryMode = "0700";
      LoadCredential = map (one: one.load) (credentials user);
      SetCredential = map (one: one.empty) (credentials user);
      UMask = "0077";
      # What crashes leaves no copy of its memory, secrets in it.
      LimitCORE = 0;
      # A first start has an image to fetch or to unpack.
      TimeoutStartSec = "15min";
      TimeoutStopSec = "30s";
    };
  };

  slice = name: user: {
    description = "Workspaces of ${name}";
    sliceConfig = {
      MemoryMax = toString user.memoryLimit;
      MemoryHigh = high user;
      # A workspace that swaps makes everyone wait.
      MemorySwapMax = "0";
      CPUQuota = "${toString (ours.milliCpus user.cpuLimit / 10)}%";
      TasksMax = user.tasksLimit;
      # What clouds tell every process about the machine it runs on, credentials among it.
      IPAddressDeny = [
        "169.254.169.254"
        "fd00:ec2::254"
      ];
    };
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.services = lib.mapAttrs' (
      name: user: lib.nameValuePair (ours.unit name) (service name user)
    ) cfg.users;
    systemd.slices = lib.mapAttrs' (
      name: user: lib.nameValuePair (ours.slice name) (slice name user)
    ) cfg.users;
  };
}
