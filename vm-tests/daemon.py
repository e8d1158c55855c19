# The daemon is killed, hangs, is upgraded, or loses what it depends on. No workspace is restarted and no connection is closed, and the
# daemon observes again which workspaces run.
DAEMON = "code-server-multi.service"
STATE = "/var/lib/code-server-multi"
# The test's own programs: some systems don't allow executing files in /run.
PROGRAMS = "/var/lib/test"
FORM = "https://code.test/sign-in"

wait_for_front_door()
visitors = {name: Visitor(name) for name in ("ada", "grace")}
ada, grace = visitors.values()
# What must not change: each workspace's processes, and a connection of each editor.
workspaces, holders = {}, {}


def keep(name):
    """Records the workspace's processes and opens a connection: from here on, both must stay."""
    workspaces[name] = processes(name)
    holders[name] = visitors[name].open_websocket()


def assert_runs_on(*names):
    """Asserts that these users' workspaces run on, with their connections, and that the daemon observes them as running."""
    wait_for_status(FORM, 200)
    for name in names:
        wait_for_state(name, "running")
        assert processes(name) == workspaces[name], f"{name}'s workspace was restarted"
        assert_open(holders[name])


def assert_unharmed(*names):
    """Asserts also that these users, by default all, are still signed in and get their editors."""
    names = names or tuple(workspaces)
    assert_runs_on(*names)
    for name in names:
        # The dashboard's response comes from the daemon; nginx caches some of the others.
        code = visitors[name].curl(f"--output /dev/null --write-out '%{{http_code}}' {NAVIGATE} https://code.test/")
        assert code == "200", f"{name} is signed out: {code}"
        visitors[name].editor()


def signs_in_again(name):
    """Waits until a user whose session is gone is redirected to the sign-in, and signs in."""
    cookies = f"--cookie {visitors[name].jar} --cookie-jar {visitors[name].jar}"
    wait_for_status(f"{cookies} https://{name}.code.test/", 303)
    visitors[name].sign_in()


def try_sign_in():
    """Signs in as ada in a new browser; returns the response's status and page."""
    fields = "--data-urlencode name=ada --data-urlencode password@/run/test/ada --header 'Origin: https://code.test'"
    said = machine.succeed(f"curl --silent --max-time 120 --write-out '\\n%{{http_code}}' {fields} {FORM}")
    page, _, code = said.rpartition("\n")
    return code, page


def kill_daemon(*delays):
    """Kills one daemon after another, each this many seconds after systemd has started it."""
    find = f"until pid=$(systemctl show --property=MainPID --value {DAEMON}); [ $pid != 0 ] && [ $pid != $before ]; do :; done"
    each = f"{find}; sleep $delay; kill -KILL $pid; before=$pid"
    machine.succeed(f"before=0; for delay in {' '.join(map(str, delays))}; do {each}; done")
    machine.wait_until_succeeds(f"systemctl is-active {DAEMON}")


def start_and_suspend(name, command):
    """Requests a start in which Podman is suspended (SIGSTOP) when it is called with `command`, until resume()."""
    stub = '#!/bin/sh\ncase " $* " in *" $SUSPEND_AT "*) kill -STOP $$ ;; esac\nexec %s "$@"\n'
    place = f"/run/systemd/system/code-server-{name}@.service.d"
    # The unit's own command, which sets PATH itself.
    launch = f"$(systemctl cat {unit(name)} | grep ^ExecStart= | sed 's|PATH=|PATH={PROGRAMS}/suspending:|')"
    machine.succeed(
        f"mkdir -p {PROGRAMS}/suspending",
        f"printf {shlex.quote(stub)} $(command -v podman) > {PROGRAMS}/suspending/podman && chmod -R a+rx {PROGRAMS}",
        f"mkdir -p {place} && echo \"[Service]\nEnvironment=SUSPEND_AT={command}\nExecStart=\n{launch}\" > {place}/suspending.conf",
        "systemctl daemon-reload",
        "curl --fail --silent --show-error --output /dev/null --unix-socket /run/code-server-multi/api.sock"
        f" --request POST http://csm/api/v1/workspaces/{name}/start",
    )
    machine.wait_until_succeeds(f"pgrep --runstates T --uid csm-{name}")
    machine.succeed(f"rm -r {place} && systemctl daemon-reload")
    wait_for_state(name, "starting")


def resume(name):
    machine.succeed(f"pkill --signal CONT --runstates T --uid csm-{name}")


start("ada", "grace")
for visitor in visitors.values():
    visitor.sign_in()
    keep(visitor.name)


with subtest("a daemon that is killed at any moment is restarted, and no user is signed out"):
    # Long delays between short ones: systemd does not restart a unit that exits too often within ten seconds.
    kill_daemon(0, 3, 0.02, 4, 0.05, 3, 0.1, 2.5, 0.2, 2, 0.5, 1.5, 1)
    assert_unharmed()

with subtest("a daemon that hangs is killed by the watchdog and restarted"):
    pid = main_pid(DAEMON)
    machine.succeed(f"kill -STOP {pid}")
    machine.wait_until_succeeds(f"test $(systemctl show --property=MainPID --value {DAEMON}) != {pid}")
    machine.succeed(f"journalctl --no-pager --unit={DAEMON} | grep 'Watchdog timeout'")
    assert_unharmed()

with subtest("a start continues without the daemon, and the next daemon follows it"):
    machine.succeed("csm stop grace")
    start_and_suspend("grace", "run")
    kill_daemon(0, 3, 0.5)
    wait_for_state("grace", "starting")
    resume("grace")
    wait_for_state("grace", "running")
    keep("grace")
    assert_unharmed()

with subtest("another version of the daemon takes over"):
    place = f"/run/systemd/system/{DAEMON}.d"
    program = machine.succeed(f"readlink /proc/{main_pid(DAEMON)}/exe").strip()
    upgraded = f"{PROGRAMS}/upgraded/bin/{program.rpartition('/')[2]}"
    command = f"{upgraded} daemon /etc/code-server-multi/manifest.json"
    changed = f"[Service]\\nExecStart=\\nExecStart={command}\\nEnvironment=RUST_LOG=debug\\n"
    machine.succeed(
        # The program, with the files that it is installed with.
        f"mkdir -p {PROGRAMS} && cp --recursive --dereference $(dirname {program})/.. {PROGRAMS}/upgraded",
        f"chmod -R a+rX {PROGRAMS}",
        f"mkdir -p {place} && printf '{changed}' > {place}/upgraded.conf",
        f"systemctl daemon-reload && systemctl restart {DAEMON}",
    )
    program = machine.succeed(f"readlink /proc/{main_pid(DAEMON)}/exe").strip()
    assert program == upgraded, f"it is {program}"
    assert_unharmed()
    machine.succeed(f"rm -r {place} && systemctl daemon-reload && systemctl restart {DAEMON}")
    assert_unharmed()

with subtest("a truncated manifest changes nothing"):
    pid = main_pid(DAEMON)
    manifest = "/etc/code-server-multi/manifest.json"
    # It is a symbolic link, which is restored below.
    machine.succeed(f"mv {manifest} {manifest}.whole")
    length = int(machine.succeed(f"wc --bytes < {manifest}.whole"))
    journal = f"journalctl --no-pager --unit={DAEMON} --cursor-file=/run/test/cursor"
    for kept in (0, 1, length // 3, length // 2, length - 1):
        machine.succeed(f"head --bytes={kept} {manifest}.whole > {manifest}")
        machine.succeed(f"{journal} > /dev/null && systemctl reload {DAEMON}")
        machine.wait_until_succeeds(f"{journal} | grep 'is invalid; still using the previous manifest'")
        code, page = try_sign_in()
        assert code == "303", f"with {kept} bytes of it, a sign-in gets {code}: {page}"
    machine.succeed(f"mv {manifest}.whole {manifest} && {journal} > /dev/null && systemctl reload {DAEMON}")
    machine.wait_until_succeeds(f"{journal} | grep 'applied a new manifest'")
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
    assert_unharmed()

with subtest("when its state is lost, users must sign in again, and nothing else changes"):
    machine.succeed(f"rm {STATE}/state.db* && systemctl restart {DAEMON}")
    assert_runs_on(*workspaces)
    for name in visitors:
        signs_in_again(name)
    assert_unharmed()

with subtest("a full disk prevents sign-ins, until there is room"):
    owner = "uid=$(id --user code-server-multi),gid=$(id --group code-server-multi)"
    machine.succeed(
        f"systemctl stop {DAEMON}",
        f"cp --archive {STATE} /run/test/state",
        f"mount -t tmpfs -o size=1M,mode=0700,{owner} state {STATE} && cp --archive /run/test/state/. {STATE}",
        f"systemctl start {DAEMON}",
    )
    pid = main_pid(DAEMON)
    said = machine.succeed(f"cat /dev/zero 2>&1 > {STATE}/full || true")
    assert "No space left on device" in said, f"it is not full: {said}"
    # SQLite may have enough space allocated for a few more sessions.
    answers = [try_sign_in()]
    while answers[-1][0] == "303" and len(answers) < 100:
        answers.append(try_sign_in())
    code, page = answers[-1]
    assert code == "500" and "Internal error" in page, f"sign-in {len(answers)} gets {code}: {page}"
    machine.succeed(f"journalctl --no-pager --unit={DAEMON} | grep 'can.t store a session.*is full'")
    # An unauthenticated visitor is still redirected to the sign-in.
    wait_for_status("https://ada.code.test/", 303)
    assert_unharmed()
    machine.succeed(f"rm {STATE}/full")
    code, page = try_sign_in()
    assert code == "303", f"with room again, a sign-in gets {code}: {page}"
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
    machine.succeed(f"systemctl stop {DAEMON} && umount {STATE} && systemctl start {DAEMON}")
    assert_unharmed()

with subtest("when the system bus is restarted, the daemon connects again, and can stop and start workspaces"):
    pid = main_pid(DAEMON)
    # dbus-daemon's unit, or dbus-broker's, which has this name too.
    bus = machine.succeed("systemctl show --property=Id --value dbus.service").strip()
    before = main_pid(bus)
    machine.succeed(f"systemctl restart {bus}")
    assert main_pid(bus) != before, f"{bus} was not restarted"
    journal = f"journalctl --no-pager --unit={DAEMON} _PID={pid}"
    machine.wait_until_succeeds(f"{journal} | grep 'the connection to the system bus was lost'")
    assert_unharmed()
    machine.succeed("csm stop grace")
    assert status("grace")["state"] == "stopped", f"grace's workspace is {status('grace')}"
    machine.fail(f"systemctl is-active {unit('grace')}")
    assert_unharmed("ada")
    start("grace")
    keep("grace")
    assert_unharmed()
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
    # logind does not connect to the new bus, so a call to it would wait for 25 s. Therefore Podman is started without a bus.
    podman = machine.succeed(f"pgrep --parent {main_pid(unit('grace'))} podman").strip()
    machine.succeed(f"grep --null-data --line-regexp DBUS_SYSTEM_BUS_ADDRESS=disabled: /proc/{podman}/environ")

with subtest("a Podman that hangs delays only its own workspace, and a stop kills it"):
    machine.succeed("csm stop grace")
    for command in ("--version", "run"):
        start_and_suspend("grace", command)
        page = grace.curl(f"{NAVIGATE} --location https://code.test/")
        assert "starting" in page.lower(), f"grace's dashboard does not show that it is starting: {page}"
        assert_unharmed("ada")
        machine.succeed("csm stop grace")
        machine.fail("pgrep --uid csm-grace")
        assert status("grace")["state"] == "stopped", f"grace's workspace is {status('grace')}"
    start("grace")
    keep("grace")
    assert_unharmed()

with subtest("a clock that jumps a year ahead and back expires sessions, and changes nothing else"):
    pid = main_pid(DAEMON)
    machine.succeed("date --set='1 year'")
    assert_runs_on(*workspaces)
    for name in visitors:
        signs_in_again(name)
    assert_unharmed()
    machine.succeed("date --set='1 year ago'")
    assert_unharmed()
    code, page = try_sign_in()
    assert code == "303", f"with the clock set back, a sign-in gets {code}: {page}"
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
