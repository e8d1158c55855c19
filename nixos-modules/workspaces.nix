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
  inherit (cfg.internal) manifestPath run;

  # systemd reads secrets as root and hands them to the unit. A file that is not there becomes an empty line, which stops this
  # workspace alone, and the launcher says which it was.
  credential = id: path: ''
    LoadCredential=${id}:${ours.unitPath path}
    SetCredential=${id}:\n
  '';
  credentials =
    user:
    lib.concatStrings (
      lib.mapAttrsToList (name: credential "environment.${name}") (ours.secretEnvironment cfg user)
      ++ lib.imap0 (at: file: credential "files.${toString at}" file.source) (
        lib.attrValues (ours.secretFiles cfg user)
      )
    );

  # Podman, and newuidmap and newgidmap, which are privileged. Not as Environment=: every drop-in of NixOS sets another PATH there.
  path = "${config.virtualisation.podman.package}/bin:/run/wrappers/bin";
  launch = "${pkgs.coreutils}/bin/env PATH=${path} ${cfg.package}/bin/csm launch ${manifestPath} %n";

  service = name: user: ''
    [Unit]
    Description=Workspace %i of ${name}
    RequiresMountsFor=${cfg.workspaceBase} ${ours.workspaceState cfg name}
    # Who may start it, and how often, is the daemon's to say; many tries at once would hide the reason of the first.
    StartLimitIntervalSec=0

    [Service]
    X-RestartIfChanged=false
    X-StopIfChanged=false
    Type=notify
    NotifyAccess=main
    ExecStart=${launch}
    # Not env's.
    SyslogIdentifier=csm
    Environment=HOME=${ours.workspaceState cfg name}/%i
    Environment=XDG_RUNTIME_DIR=%t/code-server-workspaces/${name}/%i
    Environment=CSM_RUN_DIRECTORY=${run}
    User=${ours.account name}
    Group=${ours.account name}
    Slice=${ours.slice name}.slice
    # Podman makes a cgroup for the container inside the unit's own, so that the slice's limits hold for all of it.
    Delegate=true
    # SIGTERM to the launcher, which ends the container in order; SIGKILL to whatever is left.
    KillMode=mixed
    # One process that runs out of memory is not the end of the others.
    OOMPolicy=continue
    RuntimeDirectory=code-server-workspaces/${name}/%i
    RuntimeDirectoryMode=0700
    UMask=0077
    # What crashes leaves no copy of its memory, secrets in it.
    LimitCORE=0
    # A first start has an image to fetch or to unpack.
    TimeoutStartSec=15min
    TimeoutStopSec=30s
    ${credentials user}'';

  high =
    user:
    toString (if user.memoryHigh != null then user.memoryHigh else ours.bytes user.memoryLimit / 6 * 5);

  slice = name: user: ''
    [Unit]
    Description=Workspaces of ${name}

    [Slice]
    MemoryMax=${toString user.memoryLimit}
    MemoryHigh=${high user}
    # A workspace that swaps makes everyone wait.
    MemorySwapMax=0
    CPUQuota=${toString (ours.milliCpus user.cpuLimit / 10)}%
    TasksMax=${toString user.tasksLimit}
    # What clouds tell every process about the machine it runs on, credentials among it.
    IPAddressDeny=169.254.169.254 fd00:ec2::254
  '';
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal.peoplesUnits = lib.concatMapAttrs (name: user: {
      "${ours.unit name}.service" = service name user;
      "${ours.slice name}.slice" = slice name user;
    }) cfg.users;
  };
}
