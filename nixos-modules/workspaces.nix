# A template unit for each user's workspaces, in a slice with the user's limits. A switch restarts no running workspace: a change takes
# effect at the next start, and until then the dashboard shows "update pending".
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

  # systemd reads secrets as root and passes them to the unit. A missing file becomes an empty line: only this workspace does not
  # start, and the launcher names the file.
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

  # For Podman, and for newuidmap and newgidmap, which are setuid. Not as Environment=, because each of NixOS's drop-ins sets another PATH.
  path = "${config.virtualisation.podman.package}/bin:/run/wrappers/bin";
  launch = "${pkgs.coreutils}/bin/env PATH=${path} ${cfg.package}/bin/csm launch ${manifestPath} %n";

  service = name: user: ''
    [Unit]
    Description=Workspace %i of ${name}
    RequiresMountsFor=${cfg.workspaceBase} ${ours.workspaceState cfg name}
    # The daemon decides who may start the unit and how often. systemd's limit would replace the cause of the first failure.
    StartLimitIntervalSec=0

    [Service]
    X-RestartIfChanged=false
    X-StopIfChanged=false
    Type=notify
    NotifyAccess=main
    ExecStart=${launch}
    # Otherwise the journal would name env.
    SyslogIdentifier=csm
    Environment=HOME=${ours.workspaceState cfg name}/%i
    Environment=XDG_RUNTIME_DIR=%t/code-server-workspaces/${name}/%i
    Environment=CSM_RUN_DIRECTORY=${run}
    User=${ours.account name}
    Group=${ours.account name}
    Slice=${ours.slice name}.slice
    # Podman creates the container's cgroup inside the unit's, so that the slice's limits cover the container.
    Delegate=true
    # systemd sends SIGTERM to the launcher, which stops the container, and SIGKILL to the processes that remain.
    KillMode=mixed
    # If the kernel kills one process at the memory limit, the others continue.
    OOMPolicy=continue
    RuntimeDirectory=code-server-workspaces/${name}/%i
    RuntimeDirectoryMode=0700
    UMask=0077
    # No core dumps: they could contain secrets.
    LimitCORE=0
    # The first start pulls or unpacks an image.
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
    # A workspace that swaps slows down the whole host.
    MemorySwapMax=0
    CPUQuota=${toString (ours.milliCpus user.cpuLimit / 10)}%
    TasksMax=${toString user.tasksLimit}
    # Cloud metadata services, which return the host's credentials to any process.
    IPAddressDeny=169.254.169.254 fd00:ec2::254
  '';
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal.userUnits = lib.concatMapAttrs (name: user: {
      "${ours.unit name}.service" = service name user;
      "${ours.slice name}.slice" = slice name user;
    }) cfg.users;
  };
}
