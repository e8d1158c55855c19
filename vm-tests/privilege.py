# What an attacker who has the daemon's account or an owner's account can do to the machine. Each refusal must have the expected
# reason.
wait_for_front_door()
start("ada", "grace")
before = {name: processes(name) for name in ("ada", "grace")}
DAEMON = "setpriv --reuid=code-server-multi --regid=code-server-multi --init-groups"
MANAGER = "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"


def as_daemon(command):
    return f"{DAEMON} env --chdir=/ sh -c {shlex.quote(command)} </dev/null"


def refused(command, *reasons):
    code, said = machine.execute(f"{{ {command}; }} 2>&1")
    assert code != 0 and any(reason in said for reason in reasons), f"{command}: expected one of {reasons}, got {code}: {said}"


def call(method, signature, *arguments):
    quoted = " ".join(shlex.quote(argument) for argument in arguments)
    return f"busctl --no-pager --allow-interactive-authorization=no call {MANAGER} {method} {shlex.quote(signature)} {quoted}"


with subtest("the daemon's account can start and stop the workspaces' units, and no others"):
    for name in ("ada", "grace"):
        machine.succeed(as_daemon(call("FreezeUnit", "s", unit(name))), as_daemon(call("ThawUnit", "s", unit(name))))
        machine.succeed(as_daemon(call("StartUnit", "ss", unit(name), "replace")))
    # Similar names, aliases, patterns, paths, and units that an attacker would want.
    for other in (
        "sshd.service",
        "nginx.service",
        "code-server-multi.service",
        "code-server-multi-passwords.service",
        "code-server-ada.slice",
        "code-server-ada@.service",
        "code-server-ada@main.service.service",
        "code-server-Ada@main.service",
        "code-server--ada@main.service",
        "code-server-ada@main.socket",
        "xcode-server-ada@main.service",
        "code-server-ada@main@x.service",
        "code-server-ada@..service",
        "multi-user.target",
        "poweroff.target",
    ):
        for method in ("StartUnit", "StopUnit"):
            # systemd does not ask polkit about a name that is invalid or that it has no unit for.
            reasons = ("Access denied", "Interactive authentication required", "not found", "not loaded", "is missing the instance name")
            refused(as_daemon(call(method, "ss", other, "replace")), *reasons)
    for other in ("nginx.service", "code-server-multi.service"):
        refused(as_daemon(call("StopUnit", "ss", other, "replace")), "Access denied", "Interactive authentication required")

with subtest("the daemon's account can do nothing else with those units, or with systemd"):
    ada = unit("ada")
    transient = ("1", "ExecStart", "a(sasb)", "1", "/bin/sh", "1", "/bin/sh", "false", "0")
    for ask in (
        # This would run any program, as root, under a name like those of the units that it may start.
        call("StartTransientUnit", "ssa(sv)a(sa(sv))", "code-server-eve@main.service", "replace", *transient),
        call("KillUnit", "ssi", ada, "all", "9"),
        call("SetUnitProperties", "sba(sv)", ada, "true", "1", "MemoryMax", "t", "1"),
        call("ReloadUnit", "ss", ada, "replace"),
        call("EnableUnitFiles", "asbb", "1", ada, "true", "false"),
        call("MaskUnitFiles", "asbb", "1", ada, "true", "false"),
        call("LinkUnitFiles", "asbb", "1", "/tmp/x.service", "true", "false"),
        call("SetEnvironment", "as", "1", "LD_PRELOAD=/tmp/x.so"),
        call("GetUnit", "s", ada),
        call("Reload", ""),
        call("Reexecute", ""),
        call("PowerOff", ""),
    ):
        refused(as_daemon(ask), "Access denied", "Interactive authentication required", "Sender is not authorized")

with subtest("the daemon's account can't read owners' files or become another account"):
    machine.succeed("echo private > /var/lib/vscode/ada/home/diary", "chmod 0644 /var/lib/vscode/ada/home/diary")
    for path in (
        "/var/lib/vscode/ada/home/diary",
        "/run/code-server-multi/ws/ada/inside",
        "/run/code-server-multi/secrets/ada",
        "/var/lib/code-server-workspaces/ada/main/.local",
        "/etc/shadow",
    ):
        machine.succeed(f"test -e {path}")
        refused(as_daemon(f"ls {path}/ || cat {path}"), "Permission denied")
    refused(as_daemon("curl --silent --verbose --unix-socket /run/code-server-multi/ws/ada/http.sock http://x/"), "Permission denied")
    groups = machine.succeed(as_daemon("id --name --groups")).split()
    assert sorted(groups) == ["code-server-multi"], f"it is in {groups}"
    unit_has = machine.succeed("systemctl show --property=NoNewPrivileges,CapabilityBoundingSet,SupplementaryGroups code-server-multi")
    assert "NoNewPrivileges=yes" in unit_has and "CapabilityBoundingSet=\n" in unit_has + "\n", f"its unit has {unit_has}"

with subtest("an owner's account can't start or stop any unit"):
    for other in (unit("ada"), unit("grace"), "nginx.service", "code-server-multi.service"):
        for method in ("StartUnit", "StopUnit", "RestartUnit"):
            refused(as_account("ada", call(method, "ss", other, "replace")), "Access denied", "Interactive authentication required")
    # The bus itself accepts these calls only from the daemon.
    refused(as_account("ada", call("FreezeUnit", "s", unit("grace"))), "Access denied", "AccessDenied", "Rejected send message")

with subtest("an owner's account can't raise its own limits"):
    slice = machine.succeed("systemctl show --property=ControlGroup --value code-server-ada.slice").strip()
    for file in ("memory.max", "pids.max", "cpu.max", "cgroup.procs"):
        refused(as_account("ada", f"echo max > /sys/fs/cgroup{slice}/{file}"), "Permission denied")
    refused(as_account("ada", f"echo max > /sys/fs/cgroup{slice}/{unit('ada')}/memory.max"), "Permission denied")

with subtest("owners' ranges of subordinate ids don't overlap, and contain no account's id"):
    for table in ("/etc/subuid", "/etc/subgid"):
        ranges = sorted(
            (int(begin), int(begin) + int(count), name)
            for name, begin, count in (line.split(":") for line in machine.succeed(f"cat {table}").split())
        )
        assert {"csm-ada", "csm-grace"} <= {name for _, _, name in ranges}, f"{table} holds {ranges}"
        for (_, end, one), (begin, _, other) in zip(ranges, ranges[1:]):
            assert end <= begin, f"{table}: {one}'s and {other}'s overlap"
    ids = [int(line.split(":")[2]) for line in machine.succeed("cat /etc/passwd").splitlines()]
    assert not any(begin <= some < end for some in ids for begin, end, _ in ranges), "an account's id is in a range"

with subtest("an owner who swaps links while a workspace starts can't reach others' files"):
    # The owner's account itself prepares the home, so it can reach only its own files. csm must not follow the link to others.
    machine.succeed("echo canary > /root/canary && chmod 0600 /root/canary")
    everything = machine.succeed("ls -A /root")
    machine.succeed(f"systemctl stop {unit('ada')}")
    home = "/var/lib/vscode/ada/home"
    swap = "ln -s /root .x; mv -T .local .real; mv -T .x .local; rm .local; mv -T .real .local"
    machine.succeed(as_account("ada", f"mkdir -p {home}/.local"))
    machine.succeed(
        "systemd-run --quiet --collect --unit=racer --uid=csm-ada --gid=csm-ada"
        f" --working-directory={home} --property=StandardError=null $(command -v bash) -c 'while :; do {swap}; done'"
    )
    # The start may fail with a reason. It must not write through the link, or run as another account.
    machine.execute("csm start ada")
    machine.succeed("systemctl stop racer.service")
    assert machine.succeed("cat /root/canary").strip() == "canary"
    assert machine.succeed("ls -A /root") == everything, "it wrote into /root"
    machine.succeed(f"rm -rf {home}/.local {home}/.real {home}/.x")
    start("ada")

with subtest("no other workspace was affected"):
    assert processes("grace") == before["grace"], "grace's workspace was restarted"
