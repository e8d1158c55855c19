"""JupyterHub's control plane, to compare with csm's: hub, proxy and idle culler, with no user signed in. Needs root, CSM, and on PATH
jupyterhub, jupyterhub-idle-culler and configurable-http-proxy."""

import importlib
import shutil
import sys
import time
import urllib.request
from pathlib import Path

lib = importlib.import_module("bench-lib")

STARTS = 3
IDLE = 30

CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub}
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.allow_named_servers = False
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.command = ["{proxy}"]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.JupyterHub.load_roles = [dict(name="idle-culler", services=["idle-culler"],
    scopes=["list:users", "read:users:activity", "read:servers", "delete:servers"])]
c.JupyterHub.services = [dict(name="idle-culler", command=["{culler}", "-m", "jupyterhub_idle_culler", "--timeout=3600"])]
"""


def ready(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/hub/health", timeout=1).status == 200
    except OSError:
        return False


def jupyterhub(directory):
    port, hub, api = lib.free_port(), lib.free_port(), lib.free_port()
    program = Path(shutil.which("jupyterhub"))
    (directory / "config.py").write_text(CONFIG.format(
        port=port, hub=hub, api=api, culler=program.parent / "python3", proxy=shutil.which("configurable-http-proxy")))
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(directory)}
    command = lib.unprivileged(program, "--log-level=ERROR", "-f", directory / "config.py")
    began = time.monotonic()
    with lib.running(command, cwd=directory, env=environment, stdout=lib.subprocess.DEVNULL) as process:
        seconds = lib.until(lambda: ready(port), every=0.01) - began
        # The hub is ready before the culler has started.
        time.sleep(10)
        everyone = lib.family(process.pid)
        size = lib.pss(*everyone)
        before = lib.cpu(everyone)
        time.sleep(IDLE)
        share = lib.since(before) / IDLE * 100
    return seconds * 1000, size, share


def main():
    missing = [name for name in ("jupyterhub", "configurable-http-proxy") if not shutil.which(name)]
    if missing:
        print(f"\nJupyterHub was not measured: not on PATH: {' and '.join(missing)}")
        return
    with lib.place(0) as where:
        version = lib.subprocess.run(["jupyterhub", "--version"], capture_output=True, text=True).stdout.strip()
        times, sizes, shares = zip(*(jupyterhub(where.root) for _ in range(STARTS)))
    rows = [
        ["PSS of hub, proxy and idle culler, no user signed in", lib.spread(sizes, " MiB", 0)],
        ["start to ready", lib.spread(times, " ms", 0)],
        [f"CPU without activity, over {IDLE} s", lib.spread(shares, " % of a core", 2)],
    ]
    lib.table(f"JupyterHub {version}, for comparison", ["what", "median (least to most)"], rows)


sys.exit(main())
