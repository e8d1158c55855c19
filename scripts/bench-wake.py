"""How much later code-server responds when csm starts it, and what csm uses while workspaces run.

scripts/bench runs it as the demo's account, beside a `csm up`. Python reads it from standard input, because that account may be unable
to open the repository. Argument: the manifest's path.
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 10
RUN = Path(os.environ["XDG_RUNTIME_DIR"]) / "code-server-multi"
# Neither csm's naming nor its labels: csm must not take this container for one of its own.
BARE = "bench-bare"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path, method, target):
    connection = UnixConnection(path)
    connection.request(method, target)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def responds(path):
    try:
        return ask(path, "GET", "/healthz")[0] == 200
    except OSError:
        return False


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"timed out after {seconds} s waiting for a condition")
        time.sleep(0.001)


def act(workspace, verb):
    status, body = ask(RUN / "api.sock", "POST", f"/api/v1/workspaces/{workspace}/{verb}?wait=true")
    state = json.loads(body)
    if status != 200 or "failed" in json.dumps(state.get("state", "")):
        raise SystemExit(f"{verb} {workspace}: {status} {body.decode()}")


def podman(*arguments):
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout


def same_container(name):
    """The arguments of a `podman run` that creates the same container as csm did."""
    made = json.loads(podman("inspect", name))[0]
    config, host = made["Config"], made["HostConfig"]
    arguments = [
        f"--name={BARE}", f"--hostname={config['Hostname']}", f"--user={config['User']}", f"--workdir={config['WorkingDir']}",
        "--userns=keep-id:uid=1000,gid=1000", f"--network={host['NetworkMode'].partition(':')[0]}", "--init",
        f"--shm-size={host['ShmSize']}b", "--image-volume=ignore", "--log-driver=k8s-file", "--stop-timeout=10",
    ]
    arguments += [f"--env={variable}" for variable in config["Env"] if not variable.startswith(("container=", "HOSTNAME="))]
    for mount in made["Mounts"]:
        access = "" if mount["RW"] else ",ro=true"
        arguments.append(f"--mount=type=bind,src={mount['Source']},dst={mount['Destination']}{access}")
    entrypoint = config["Entrypoint"]
    entrypoint = entrypoint.split() if isinstance(entrypoint, str) else entrypoint
    return [*arguments, "--entrypoint", json.dumps(entrypoint[:1]), made["ImageName"], *entrypoint[1:], *config["Cmd"]]


def by_csm(workspace, healthy):
    began = time.monotonic()
    act(workspace, "start")
    took = time.monotonic() - began
    if not healthy():
        raise SystemExit("csm reports that the workspace is running, but code-server does not respond")
    act(workspace, "stop")
    return took * 1000


def by_hand(arguments, socket_file, healthy):
    socket_file.unlink(missing_ok=True)
    began = time.monotonic()
    run = subprocess.Popen(["podman", "run", "--detach", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until(lambda: healthy() or run.poll())
    took = time.monotonic() - began
    if run.wait():
        raise SystemExit(f"podman run: {run.stderr.read().decode()}")
    podman("stop", BARE)
    podman("rm", BARE)
    return took * 1000


def pss(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def ours(name):
    """Processes of this account with this name, except those in containers."""
    listed = subprocess.run(["pgrep", "-U", str(os.getuid()), "-x", name], capture_output=True, text=True).stdout.split()
    inside = Path("/proc/self/ns/user").readlink()
    return [int(pid) for pid in listed if Path(f"/proc/{pid}/ns/user").readlink() == inside]


def service():
    """The PID of Podman's service. The service enters a user namespace of its own, so it is identified by its arguments."""
    for pid in subprocess.run(["pgrep", "-U", str(os.getuid()), "-x", "podman"], capture_output=True, text=True).stdout.split():
        if b"system\0service" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise SystemExit("Podman's service is not running")


def nanoseconds(pid):
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").iterdir())


def spread(values, unit, digits=0):
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle}{unit} ({low} to {high})"


def wake(workspace):
    socket_file = RUN / "ws" / workspace / "inside" / "http.sock"
    healthy = lambda: responds(socket_file)
    # The first start creates the home's files and a container whose arguments the bare runs copy.
    act(workspace, "start")
    arguments = same_container(f"csm-{workspace}")
    act(workspace, "stop")
    by_hand(arguments, socket_file, healthy)
    pairs = [(by_csm(workspace, healthy), by_hand(arguments, socket_file, healthy)) for _ in range(ROUNDS)]
    with_csm, bare = zip(*pairs)
    return [
        ["`csm start`: request to code-server's first response", spread(with_csm, " ms")],
        ["bare `podman run`, same container: the same", spread(bare, " ms")],
        ["difference, pair by pair", spread([one - other for one, other in pairs], " ms")],
    ]


def running_workspaces(users):
    for user in users:
        act(user, "start")
    time.sleep(10)
    (csm,), podman_service = ours("csm"), service()
    before = nanoseconds(csm)
    time.sleep(30)
    share = (nanoseconds(csm) - before) / 30e9 * 100
    rows = [
        [f"csm, PSS, {len(users)} workspaces running", f"{pss(csm):.1f} MiB"],
        ["its nginx, PSS", f"{sum(map(pss, ours('nginx'))):.1f} MiB"],
        ["Podman's service, PSS", f"{pss(podman_service):.1f} MiB"],
        [f"csm, CPU with {len(users)} idle workspaces running, over 30 s", f"{share:.3f} % of a core"],
    ]
    for user in users:
        act(user, "stop")
    return rows


users = list(json.loads(Path(sys.argv[1]).read_text())["users"])
print("\n### Waking a workspace, and csm with running workspaces (`csm up`, Podman, nginx)\n")
print("| what | median (least to most) |\n| --- | --- |", flush=True)
for measure in (lambda: wake(users[0]), lambda: running_workspaces(users)):
    for row in measure():
        print("| " + " | ".join(row) + " |", flush=True)
