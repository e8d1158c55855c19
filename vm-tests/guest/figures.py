"""figures.py PLACE: measures in the guest what the systemd runtime costs, and prints Markdown. `run` calls it. The processor is emulated
and slower than a real one, so compare differences and shares, not seconds."""

import json
import signal
import statistics
import sys
import tempfile

import driver
import payload

USERS = 1000
IDLE = 600
# In seconds, for a thousand starts.
TIMEOUT = 1800
RUNS = 5
SOCKET = "/run/code-server-multi/ws/ada/inside/http.sock"
# The launcher's own Podman command line, in a unit like the launcher's. Podman records its runtime directory, so that is the same too.
RUNTIME = "code-server-workspaces/ada/main"
BARE = (
    "systemd-run --quiet --collect --unit=bare --uid=csm-ada --gid=csm-ada --slice=code-server-ada.slice --property=Delegate=yes"
    f" --property=KillMode=mixed --property=RuntimeDirectory={RUNTIME} --setenv=HOME=/var/lib/{RUNTIME}"
    f" --setenv=XDG_RUNTIME_DIR=/run/{RUNTIME} --setenv=DBUS_SYSTEM_BUS_ADDRESS=disabled: --setenv=PATH=/nix/store/podman/bin:/run/wrappers/bin:/usr/bin:/usr/sbin"
    " $(tr '\\0' '\\n' < /run/test/podman | while read -r word; do printf '%q ' \"$word\"; done)"
)
ANSWERS = f"until curl --silent --fail --output /dev/null --unix-socket {SOCKET} http://x/healthz; do sleep 0.1; done"


def seconds(machine, command):
    """How long a command takes by the guest's clock."""
    said = machine.succeed(f"began=$(date +%s%N); {{ {command}; }} >&2; echo $(($(date +%s%N) - began))")
    return int(said.strip()) / 1e9


def wake(machine):
    machine.wait_until_succeeds("csm start ada")
    first = "$(systemctl show --property=MainPID --value code-server-ada@main.service)"
    machine.succeed(f"cp /proc/$(pgrep --parent {first} podman | head --lines=1)/cmdline /run/test/podman")
    machine.succeed("csm stop ada")
    csm, bare, stop = [], [], []
    for _ in range(RUNS):
        csm.append(seconds(machine, "csm start ada"))
        stop.append(seconds(machine, "csm stop ada"))
        machine.succeed(f"rm -f {SOCKET}")
        bare.append(seconds(machine, f"eval \"{BARE}\"; {ANSWERS}"))
        machine.succeed("systemctl stop bare.service")
    print(f"- start until code-server responds, median of {RUNS}: csm {statistics.median(csm):.2f} s, the same Podman alone {statistics.median(bare):.2f} s")
    print(f"- stop, median of {RUNS}: {statistics.median(stop):.2f} s", flush=True)


def many(machine):
    """Measures the daemon with a thousand users, whose units only sleep."""
    manifest = json.loads(machine.succeed("cat /etc/code-server-multi/manifest.json"))
    one = manifest["users"]["grace"]
    manifest["users"] = {f"p{at}": one for at in range(1, USERS + 1)}
    units = "/run/systemd/system"
    machine.succeed(
        f"cat > /run/test/manifest.json <<'END'\n{json.dumps(manifest)}\nEND\nchmod 0644 /run/test/manifest.json",
        f"for at in $(seq {USERS}); do printf '[Service]\\nExecStart=/usr/bin/sleep infinity\\n' > {units}/code-server-p$at@.service; done",
        f"mkdir {units}/code-server-multi.service.d",
        f"printf '[Service]\\nExecStart=\\nExecStart=/nix/store/code-server-multi/bin/csm daemon /run/test/manifest.json\\n'"
        f" > {units}/code-server-multi.service.d/many.conf",
        # The running daemon would stop the units of users that its manifest does not declare.
        "systemctl stop code-server-multi && systemctl daemon-reload",
        f"systemctl start $(seq --format=code-server-p%g@main.service {USERS})",
        "systemctl start code-server-multi",
        timeout=TIMEOUT,
    )
    running = "csm status --json | grep --only-matching '\"state\":\"running\"' | wc --lines"
    machine.wait_until_succeeds(f"test $({running}) = {USERS}", timeout=TIMEOUT)
    used = "systemctl show --property=CPUUsageNSec --value code-server-multi.service"
    before = int(machine.succeed(used))
    machine.succeed(f"sleep {IDLE}", timeout=2 * IDLE)
    spent = (int(machine.succeed(used)) - before) / 1e9
    print(f"- daemon's CPU, {USERS} units running, over {IDLE} s without activity: {spent:.2f} s, {100 * spent / IDLE:.2f} %")
    memory = machine.succeed("grep --max-count=1 Pss: /proc/$(systemctl show --property=MainPID --value code-server-multi.service)/smaps_rollup")
    print(f"- its memory then: {int(memory.split()[1]) / 1024:.1f} MiB (PSS)")
    # The daemon gets no signal of the stop: the bus is down when it happens.
    lost = seconds(
        machine,
        "systemctl restart dbus; systemctl stop code-server-p1@main.service;"
        " until csm status p1 --json | grep --quiet '\"state\":\"stopped\"'; do sleep 0.1; done",
    )
    print(f"- from a restart of D-Bus until a unit that was stopped meanwhile is observed as stopped: {lost:.2f} s", flush=True)


# On SIGTERM, exits through the cleanup that kills the guest.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with tempfile.NamedTemporaryFile(prefix="guest-") as disk:
    payload.write(disk, "smoke")
    for measure in (many, wake):
        with driver.copy_of(sys.argv[1], disk.name) as guest:
            driver.apply(guest, "smoke")
            measure(guest)
