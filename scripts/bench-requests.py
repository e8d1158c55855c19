"""The request path: what sign-in costs each request. Needs root, nginx, wrk, and the program's path in CSM.

Measures four configurations of nginx in front of one backend, one after the other, in several rounds:
  a  nginx and the backend alone
  b  with auth_request to another nginx that allows every request: the cheapest check there is
  c  csm's own configuration and csm, with nginx's cache of its responses off
  d  csm's own configuration unchanged: nginx caches allowed requests for some seconds
"""

import contextlib
import importlib
import re
import shutil
import subprocess

lib = importlib.import_module("bench-lib")

ROUNDS = 5
SECONDS = {32: 3, 1: 2}

# `csm up` waits for Podman's service before it writes nginx's configuration. These measurements need no workspace, so this stand-in only accepts connections.
NO_PODMAN = """#!/usr/bin/python3
import signal, socket, sys
service = socket.socket(socket.AF_UNIX)
service.bind(sys.argv[-1].removeprefix("unix://"))
service.listen()
while True:
    service.accept()[0].close()
"""

# The part that all four configurations have in common, as csm's own has it.
HEAD = """worker_processes auto;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
"""
UPSTREAMS = """    upstream backend {{ server unix:{backend}; keepalive 32; }}
    upstream auth {{ server unix:{auth}; keepalive 32; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
"""
ALONE = """    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://backend; proxy_buffering off; }} }}
}}"""
WITH_AUTH = """    server {{
        listen 127.0.0.1:{port};
        location / {{ auth_request /auth; proxy_pass http://backend; proxy_buffering off; }}
        location = /auth {{
            internal;
            proxy_pass http://auth;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
}}"""
STATIC = """    server {{ listen unix:{socket}; location / {{ return {answer}; }} }}
}}"""


def listens(port):
    with contextlib.suppress(OSError), lib.socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def nginx(where, stack, name, text):
    """Starts an nginx of this name and configuration. Returns its processes."""
    directory = where.root / name
    directory.mkdir(mode=0o700)
    conf = directory / "nginx.conf"
    conf.write_text(text)
    for path in (directory, conf):
        lib.os.chown(path, lib.ACCOUNT.pw_uid, lib.ACCOUNT.pw_gid)
    command = lib.unprivileged("nginx", "-p", directory, "-e", "stderr", "-c", conf, "-g", "daemon off;")
    process = stack.enter_context(lib.running(command, env=where.environment()))
    workers = lib.os.cpu_count()
    lib.until(lambda: len(lib.family(process.pid)) > workers)
    return lib.family(process.pid)


def of_csm(where, name, port, share):
    """The configuration that csm wrote for its own nginx, with other paths and another port."""
    text = (where.run / "nginx/nginx.conf").read_text()
    for old, new in [
        (f"{where.run}/nginx", f"{where.root}/{name}"),
        (f"{where.root}/share/", f"{share}/"),
        (f"127.0.0.1:{where.port}", f"127.0.0.1:{port}"),
    ]:
        if old not in text:
            raise SystemExit(f"can't find {old} in csm's nginx.conf; change of_csm to match what csm writes")
        text = text.replace(old, new)
    return text


def uncached(where):
    share = where.root / "uncached"
    shutil.copytree(where.root / "share", share)
    conf = share / "nginx/workspace.conf"
    lines = [line for line in conf.read_text().splitlines() if not line.strip().startswith("proxy_cache")]
    conf.write_text("\n".join(lines))
    return share


def signed_in(where, port):
    """Signs in; returns the headers of an open editor's requests."""
    browser = lib.Browser(lambda: lib.http.client.HTTPConnection("127.0.0.1", port, timeout=60))
    workspace = f"http://{where.names[0]}.{lib.DOMAIN}:{where.port}/"
    page, status, body = browser.follow("GET", workspace)
    handshake = page.partition("handshake=")[2]
    if status != 200 or not handshake:
        raise SystemExit(f"no sign-in page at {page}: {status} {body[:200]}")
    form = {"name": where.names[0], "password": lib.PASSWORD, "handshake": handshake}
    page, status, body = browser.follow("POST", page.split("?")[0], form)
    if (page, status, len(body)) != (workspace, 200, 1024):
        raise SystemExit(f"not signed in: {status} at {page}, {body[:200]}")
    return browser.headers(workspace, mode="cors")


def wrk(port, connections, headers):
    arguments = [f"-t1", f"-c{connections}", f"-d{SECONDS[connections]}s", "--latency"]
    for name, value in headers.items():
        arguments += ["-H", f"{name}: {value}"]
    command = lib.unprivileged("wrk", *arguments, f"http://127.0.0.1:{port}/")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"not all requests succeeded:\n{said}")
    amount, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)\b", said).groups()
    micros = float(amount) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]
    return int(re.search(r"(\d+) requests in", said)[1]), micros


def measure(variants, headers):
    figures = {name: {"nginx": [], "auth": [], "sum": [], 32: [], 1: []} for name in variants}
    for _ in range(ROUNDS):
        for name, (port, front, auth) in variants.items():
            wrk(port, 1, headers)
            before = lib.cpu(front), lib.cpu(auth)
            requests, micros = wrk(port, 32, headers)
            used = lib.since(before[0]), lib.since(before[1])
            per = [seconds / requests * 10_000 for seconds in (*used, sum(used))]
            for key, value in zip(("nginx", "auth", "sum", 32), (*per, micros)):
                figures[name][key].append(value)
            figures[name][1].append(wrk(port, 1, headers)[1])
    return figures


def main():
    with lib.place(2) as where, contextlib.ExitStack() as stack:
        stub = where.root / "bin/podman"
        stub.write_text(NO_PODMAN)
        stub.chmod(0o755)
        environment = where.environment()
        environment["PATH"] = f"{stub.parent}:{environment['PATH']}"
        command = lib.unprivileged(where.csm, "up", where.manifest)
        csm = stack.enter_context(lib.running(command, env=environment, stdout=subprocess.DEVNULL))
        lib.until(lambda: listens(where.port))

        backend = where.run / "ws" / where.names[0] / "http.sock"
        auth = where.root / "auth.sock"
        for directory in (backend.parent.parent, backend.parent):
            directory.mkdir(exist_ok=True)
            lib.os.chown(directory, lib.ACCOUNT.pw_uid, lib.ACCOUNT.pw_gid)
        ports = {name: lib.free_port() for name in "abcd"}

        def start(name, *parts, **values):
            text = "".join(parts).format(dir=where.root / name, backend=backend, auth=auth, **values)
            return nginx(where, stack, name, text)

        start("backend", HEAD, STATIC, socket=backend, answer=f'200 "{"x" * 1024}"')
        allow_all = start("allow-all", HEAD, STATIC, socket=auth, answer="204")
        moved = lambda name, share: nginx(where, stack, name, of_csm(where, name, ports[name], share))
        variants = {
            "a": (ports["a"], start("a", HEAD, UPSTREAMS, ALONE, port=ports["a"]), []),
            "b": (ports["b"], start("b", HEAD, UPSTREAMS, WITH_AUTH, port=ports["b"]), allow_all),
            "c": (ports["c"], moved("c", uncached(where)), [csm.pid]),
            "d": (ports["d"], moved("d", where.root / "share"), [csm.pid]),
        }
        figures = measure(variants, signed_in(where, where.port))

    what = {
        "a": "a: nginx → backend alone",
        "b": "b: + auth_request to an nginx that returns 204",
        "c": "c: csm's configuration and csm, cache off",
        "d": "d: csm's configuration unchanged",
    }
    rows = [
        [what[name], lib.spread(of["nginx"], digits=3), lib.spread(of["auth"], digits=3), lib.spread(of["sum"], digits=3),
         lib.spread(of[1], " µs", 0), lib.spread(of[32], " µs", 0)]
        for name, of in figures.items()
    ]
    head = ["way", "nginx, CPU-s per 10,000", "auth_request server", "sum", "p50, 1 connection", "p50, 32 connections"]
    lib.table("The request path (1 KB, median of 5, least to most)", head, rows)


main()
