"""The daemon as one process: memory, time to readiness, CPU without activity. Needs root, and the program's path in CSM."""

import importlib
import time

lib = importlib.import_module("bench-lib")

STARTS = 11
IDLE = 30


def settled(pid):
    # The daemon is ready before its start has finished everything.
    time.sleep(3)
    return lib.pss(pid)


def starts(where):
    times, sizes = [], []
    for _ in range(STARTS):
        with lib.daemon(where) as (process, seconds):
            times.append(seconds * 1000)
            if len(sizes) < 3:
                sizes.append(settled(process.pid))
    return times, sizes


def sign_in(where, name):
    dashboard = f"http://{lib.DOMAIN}:{where.port}"
    # What nginx would add.
    extra = {"X-Csm-Site": "dashboard", "X-Csm-Method": "POST", "X-Csm-Uri": "/sign-in", "X-Csm-Source": "127.0.0.1"}
    browser = lib.Browser(lambda: lib.UnixConnection(where.run / "front.sock"))
    form = {"name": name, "password": lib.PASSWORD, "handshake": ""}
    response, body = browser.ask("POST", f"{dashboard}/sign-in", form, extra)
    if response.status != 303:
        raise SystemExit(f"can't sign in: status {response.status}: {body[:200]}")


def main():
    rows = []
    for users in (0, 1000):
        with lib.place(users) as where:
            times, sizes = starts(where)
            rows.append([f"PSS, {users} users declared, nothing running", lib.spread(sizes, " MiB")])
            rows.append([f"start to ready, {users} users declared", lib.spread(times, " ms")])
            if not users:
                continue
            with lib.daemon(where) as (process, _):
                settled(process.pid)
                before = lib.fine_cpu(process.pid)
                time.sleep(IDLE)
                share = (lib.fine_cpu(process.pid) - before) / IDLE * 100
                rows.append([f"CPU without activity, {users} users, over {IDLE} s", f"{share:.3f} % of a core"])
                for name in where.names[:10]:
                    sign_in(where, name)
                rows.append(["PSS, the same after 10 sign-ins", f"{settled(process.pid):.1f} MiB"])
    lib.table("The daemon (`csm daemon`, no Podman, no nginx)", ["what", "median (least to most)"], rows)


main()
