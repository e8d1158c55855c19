# The daemon's ends, and what else can go wrong beside it: no workspace and no connection notices, and the daemon comes to know
# again what there is.
DAEMON = "code-server-multi.service"
STATE = "/var/lib/code-server-multi"
# Programs of the test's own: nothing in /run may be run everywhere.
PROGRAMS = "/var/lib/test"
FORM = "https://code.test/sign-in"

wait_for_front_door()
visitors = {name: Visitor(name) for name in ("ada", "grace")}
ada, grace = visitors.values()
# What must stay as it is: processes, and a connection of each editor.
workspaces, holders = {}, {}


def keep(name):
    """From here on, the workspace that runs now is the one that must go on."""
    workspaces[name] = processes(name)
    holders[name] = visitors[name].open_websocket()


def assert_goes_on(*names):
    """Nothing has happened to these people's workspaces, and the daemon knows that they run."""
    wait_for_status(FORM, 200)
    for name in names:
        wait_for_state(name, "running")
        assert processes(name) == workspaces[name], f"{name}'s workspace was restarted"
        assert_open(holders[name])


def assert_unharmed(*names):
    """What is more, they are signed in as before, and get to their editors. Without names: all of them."""
    names = names or tuple(workspaces)
    assert_goes_on(*names)
    for name in names:
        # The dashboard's answer is the daemon's own; nginx remembers some of the others for a while.
        code = visitors[name].curl(f"--output /dev/null --write-out '%{{http_code}}' {NAVIGATE} https://code.test/")
        assert code == "200", f"{name} is signed out: {code}"
        visitors[name].editor()


def signs_in_again(name):
    """Somebody whose session is gone finds that out, and signs in."""
    cookies = f"--cookie {visitors[name].jar} --cookie-jar {visitors[name].jar}"
    wait_for_status(f"{cookies} https://{name}.code.test/", 303)
    visitors[name].sign_in()


def try_sign_in():
    """The answer to ada's password in a browser of its own: status and page."""
    fields = "--data-urlencode name=ada --data-urlencode password@/run/test/ada --header 'Origin: https://code.test'"
    said = machine.succeed(f"curl --silent --max-time 120 --write-out '\\n%{{http_code}}' {fields} {FORM}")
    page, _, code = said.rpartition("\n")
    return code, page


def kill_daemon(*delays):
    """Kills one daemon after another, each so many seconds after systemd has started it."""
    find = f"until pid=$(systemctl show --property=MainPID --value {DAEMON}); [ $pid != 0 ] && [ $pid != $before ]; do :; done"
    each = f"{find}; sleep $delay; kill -KILL $pid; before=$pid"
    machine.succeed(f"before=0; for delay in {' '.join(map(str, delays))}; do {each}; done")
    machine.wait_until_succeeds(f"systemctl is-active {DAEMON}")


def ask_start_and_hold(name, command):
    """Asks for a start, in which Podman stops as soon as it has to do `command`: for ever, or until let_go_on()."""
    stub = '#!/bin/sh\ncase " $* " in *" $HELD_AT "*) kill -STOP $$ ;; esac\nexec %s "$@"\n'
    place = f"/run/systemd/system/code-server-{name}@.service.d"
    # The unit's own command, which sets PATH itself.
    launch = f"$(systemctl cat {unit(name)} | grep ^ExecStart= | sed 's|PATH=|PATH={PROGRAMS}/held:|')"
    machine.succeed(
        f"mkdir -p {PROGRAMS}/held",
        f"printf {shlex.quote(stub)} $(command -v podman) > {PROGRAMS}/held/podman && chmod -R a+rx {PROGRAMS}",
        f"mkdir -p {place} && echo \"[Service]\nEnvironment=HELD_AT={command}\nExecStart=\n{launch}\" > {place}/held.conf",
        "systemctl daemon-reload",
        "curl --fail --silent --show-error --output /dev/null --unix-socket /run/code-server-multi/api.sock"
        f" --request POST http://csm/api/v1/workspaces/{name}/start",
    )
    machine.wait_until_succeeds(f"pgrep --runstates T --uid csm-{name}")
    machine.succeed(f"rm -r {place} && systemctl daemon-reload")
    wait_for_state(name, "starting")


def let_go_on(name):
    machine.succeed(f"pkill --signal CONT --runstates T --uid csm-{name}")


start("ada", "grace")
for visitor in visitors.values():
    visitor.sign_in()
    keep(visitor.name)


with subtest("a daemon that is killed at any moment is back, and nobody is signed out"):
    # Long ones between short ones: systemd leaves alone what ends too often in ten seconds.
    kill_daemon(0, 3, 0.02, 4, 0.05, 3, 0.1, 2.5, 0.2, 2, 0.5, 1.5, 1)
    assert_unharmed()

with subtest("a daemon that hangs is ended by the watchdog, and is back"):
    pid = main_pid(DAEMON)
    machine.succeed(f"kill -STOP {pid}")
    machine.wait_until_succeeds(f"test $(systemctl show --property=MainPID --value {DAEMON}) != {pid}")
    machine.succeed(f"journalctl --no-pager --unit={DAEMON} | grep 'Watchdog timeout'")
    assert_unharmed()

with subtest("a start goes on without the daemon, and the next daemon follows it"):
    machine.succeed("csm stop grace")
    ask_start_and_hold("grace", "run")
    kill_daemon(0, 3, 0.5)
    wait_for_state("grace", "starting")
    let_go_on("grace")
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
        # With the files that ship with it beside it.
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

with subtest("a manifest that is cut off changes nothing"):
    pid = main_pid(DAEMON)
    manifest = "/etc/code-server-multi/manifest.json"
    # It is a link, which comes back as it was.
    machine.succeed(f"mv {manifest} {manifest}.whole")
    length = int(machine.succeed(f"wc --bytes < {manifest}.whole"))
    told = f"journalctl --no-pager --unit={DAEMON} --cursor-file=/run/test/cursor"
    for kept in (0, 1, length // 3, length // 2, length - 1):
        machine.succeed(f"head --bytes={kept} {manifest}.whole > {manifest}")
        machine.succeed(f"{told} > /dev/null && systemctl reload {DAEMON}")
        machine.wait_until_succeeds(f"{told} | grep 'is invalid; still using the previous manifest'")
        code, page = try_sign_in()
        assert code == "303", f"with {kept} bytes of it, a sign-in is answered with {code}: {page}"
    machine.succeed(f"mv {manifest}.whole {manifest} && {told} > /dev/null && systemctl reload {DAEMON}")
    machine.wait_until_succeeds(f"{told} | grep 'applied a new manifest'")
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
    assert_unharmed()

with subtest("without its state, people sign in again, and that is all"):
    machine.succeed(f"rm {STATE}/state.db* && systemctl restart {DAEMON}")
    assert_goes_on(*workspaces)
    for name in visitors:
        signs_in_again(name)
    assert_unharmed()

with subtest("a disk that is full keeps people from signing in, until there is room"):
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
    # What SQLite has of the disk may be enough for some more.
    answers = [try_sign_in()]
    while answers[-1][0] == "303" and len(answers) < 100:
        answers.append(try_sign_in())
    code, page = answers[-1]
    assert code == "500" and "Internal error" in page, f"sign-in {len(answers)} is answered with {code}: {page}"
    machine.succeed(f"journalctl --no-pager --unit={DAEMON} | grep 'can.t store a session.*is full'")
    # A stranger is not let in for that.
    wait_for_status("https://ada.code.test/", 303)
    assert_unharmed()
    machine.succeed(f"rm {STATE}/full")
    code, page = try_sign_in()
    assert code == "303", f"with room again, a sign-in is answered with {code}: {page}"
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
    machine.succeed(f"systemctl stop {DAEMON} && umount {STATE} && systemctl start {DAEMON}")
    assert_unharmed()

with subtest("the system's bus restarted: the daemon finds it again, and stops and starts"):
    pid = main_pid(DAEMON)
    # dbus-daemon's unit, or dbus-broker's, which has this name too.
    bus = machine.succeed("systemctl show --property=Id --value dbus.service").strip()
    before = main_pid(bus)
    machine.succeed(f"systemctl restart {bus}")
    assert main_pid(bus) != before, f"{bus} was not restarted"
    told = f"journalctl --no-pager --unit={DAEMON} _PID={pid}"
    machine.wait_until_succeeds(f"{told} | grep 'the connection to the system bus was lost'")
    assert_unharmed()
    machine.succeed("csm stop grace")
    assert status("grace")["state"] == "stopped", f"grace's workspace is {status('grace')}"
    machine.fail(f"systemctl is-active {unit('grace')}")
    assert_unharmed("ada")
    start("grace")
    keep("grace")
    assert_unharmed()
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
    # logind does not find the new bus: whoever asked it for something would wait for 25 s. So Podman is told of no bus.
    podman = machine.succeed(f"pgrep --parent {main_pid(unit('grace'))} podman").strip()
    machine.succeed(f"grep --null-data --line-regexp DBUS_SYSTEM_BUS_ADDRESS=disabled: /proc/{podman}/environ")

with subtest("a Podman that hangs keeps its own workspace waiting, and no other; a stop ends it"):
    machine.succeed("csm stop grace")
    for command in ("--version", "run"):
        ask_start_and_hold("grace", command)
        page = grace.curl(f"{NAVIGATE} --location https://code.test/")
        assert "starting" in page.lower(), f"grace's dashboard does not say that it starts: {page}"
        assert_unharmed("ada")
        machine.succeed("csm stop grace")
        machine.fail("pgrep --uid csm-grace")
        assert status("grace")["state"] == "stopped", f"grace's workspace is {status('grace')}"
    start("grace")
    keep("grace")
    assert_unharmed()

with subtest("a clock that is a year ahead, and then back again, ends sessions and nothing else"):
    pid = main_pid(DAEMON)
    machine.succeed("date --set='1 year'")
    assert_goes_on(*workspaces)
    for name in visitors:
        signs_in_again(name)
    assert_unharmed()
    machine.succeed("date --set='1 year ago'")
    assert_unharmed()
    code, page = try_sign_in()
    assert code == "303", f"back again, a sign-in is answered with {code}: {page}"
    assert main_pid(DAEMON) == pid, "the daemon was restarted"
