"""Functions that the benchmarks share: an unprivileged account's directory to run csm in, figures of processes, a browser, and tables."""

import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
ACCOUNT = pwd.getpwnam("nobody")
PASSWORD = "correct horse battery staple"
DOMAIN = "bench.localhost"


def unprivileged(*command):
    """The command, run as an unprivileged account. The kernel kills it when the benchmark exits."""
    drop = [f"--reuid={ACCOUNT.pw_uid}", f"--regid={ACCOUNT.pw_gid}", "--clear-groups", "--inh-caps=-all"]
    return ["setpriv", *drop, "--pdeathsig=KILL", "--", *map(str, command)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Place:
    """A directory that belongs to the account, with csm installed as on a real machine, and nothing running."""

    def __init__(self, user_count):
        self.names = [f"u{n}" for n in range(user_count)]
        self.port = free_port()
        self.root = Path(tempfile.mkdtemp(prefix="csm-bench-"))
        self.run, self.state, self.manifest = self.root / "run", self.root / "state", self.root / "manifest.json"
        self.csm = self.root / "bin/csm"
        for directory in ("bin", "run", "state", "passwords"):
            (self.root / directory).mkdir(mode=0o700)
        # A copy: pages that it shared with another running csm would be divided between the two.
        shutil.copy2(os.environ["CSM"], self.csm)
        shutil.copytree(REPO / "share", self.root / "share")
        self._declare()
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, ACCOUNT.pw_uid, ACCOUNT.pw_gid)

    def _declare(self):
        # A hash and not the password, as the README recommends.
        run = subprocess.run([self.csm, "hash-password"], input=PASSWORD, capture_output=True, text=True, check=True)
        users = {}
        for name in self.names:
            file = self.root / "passwords" / name
            file.write_text(run.stdout)
            file.chmod(0o600)
            users[name] = {"passwordFile": str(file)}
        self.manifest.write_text(json.dumps({
            "version": 1,
            "domain": DOMAIN,
            "workspaceBase": str(self.root / "workspaces"),
            "image": "localhost/none:latest",
            "frontDoor": {"listen": f"127.0.0.1:{self.port}"},
            "users": users,
        }))

    def environment(self, **more):
        plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.root, "RUST_LOG": "error"}
        ours = {"RUNTIME_DIRECTORY": self.run, "STATE_DIRECTORY": self.state}
        return {name: str(value) for name, value in {**plain, **ours, **more}.items()}

    def clean(self):
        shutil.rmtree(self.root)


@contextlib.contextmanager
def place(user_count):
    made = Place(user_count)
    try:
        yield made
    finally:
        made.clean()


@contextlib.contextmanager
def running(command, **options):
    """Runs a process until the end of the block. If it exits earlier, raises an error with its stderr."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
        if process.poll() is not None:
            raise SystemExit(f"{command[-2:]} exited: {process.stderr.read().decode()}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def daemon(where):
    """Runs `csm daemon`; yields it and the seconds until it sent READY=1, as systemd measures them."""
    address = where.root / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(address))
        os.chown(address, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
        notify.settimeout(30)
        began = time.monotonic()
        command = unprivileged(where.csm, "daemon", where.manifest)
        with running(command, env=where.environment(NOTIFY_SOCKET=address)) as process:
            while b"READY=1" not in notify.recv(4096):
                pass
            yield process, time.monotonic() - began


def pss(*pids):
    """Proportional set size in MiB: the memory of these processes, with each shared page divided among the processes that share it."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def cpu(pids):
    """CPU seconds of each process so far, user and system, in steps of 10 ms. nginx's cache loader exits after a minute."""
    seconds = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def since(before):
    """CPU seconds of these processes since `before`."""
    return sum(now - before[pid] for pid, now in cpu(before).items())


def fine_cpu(pid):
    """CPU seconds so far, to the nanosecond, without threads that have exited."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def family(pid):
    """A process and all its descendants."""
    found = [pid]
    for one in found:
        for thread in Path(f"/proc/{one}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def until(condition, seconds=30, every=0.002):
    """Waits until the condition is true. Returns the time when it was."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"timed out after {seconds} s waiting for a condition")
        time.sleep(every)
    return time.monotonic()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Browser:
    """Enough of a browser to sign in: cookies for one host each, Origin, Sec-Fetch-*, and redirects."""

    def __init__(self, connect):
        self.connect, self.cookies = connect, {}

    def headers(self, url, method="GET", mode="navigate"):
        host = urllib.parse.urlsplit(url).netloc
        headers = {
            "Host": host,
            "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
            "Accept": "*/*" if mode == "cors" else "text/html,application/xhtml+xml,*/*;q=0.8",
            "Accept-Language": "en-GB,en;q=0.9",
            "Sec-Fetch-Site": "same-origin",
            "Sec-Fetch-Mode": mode,
            "Sec-Fetch-Dest": "empty" if mode == "cors" else "document",
        }
        if self.cookies.get(host):
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies[host].items())
        if method == "POST":
            headers |= {"Origin": f"http://{host}", "Content-Type": "application/x-www-form-urlencoded"}
        return headers

    def ask(self, method, url, form=None, extra=None):
        parts = urllib.parse.urlsplit(url)
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection = self.connect()
        headers = self.headers(url, method) | (extra or {})
        connection.request(method, path, body=urllib.parse.urlencode(form) if form else None, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        for cookie in response.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.split(";")[0].partition("=")
            self.cookies.setdefault(parts.netloc, {})[name] = value
        return response, body

    def follow(self, method, url, form=None):
        """Sends a request and follows redirects. Returns the last URL, status and body."""
        for _ in range(10):
            response, body = self.ask(method, url, form)
            if response.status not in (302, 303):
                return url, response.status, body
            url = urllib.parse.urljoin(url, response.headers["Location"])
            method, form = "GET", None
        raise SystemExit(f"too many redirects, the last to {url}")


def spread(values, unit="", digits=1):
    """`median (least to most)`."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle}{unit} ({low} to {high})"


def table(title, head, rows):
    print(f"\n### {title}\n", flush=True)
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
