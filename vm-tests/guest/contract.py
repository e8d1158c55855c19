"""contract.py PLACE: tests in the guest, on systemd, what every runtime promises. `run` calls it. A small program runs in place of
code-server, whose own start is not tested here."""

import pathlib
import signal
import sys
import tempfile
import time

import driver
import payload

PREFIX = f"/{payload.CSM}"
START = f"{PREFIX}/share/code-server-multi/workspace/start"
PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "tests/e2e/lib/contract.pl"
# Runs with the account and groups of the daemon's unit: the module's rules are for that account, and nginx's group can open the
# workspaces' sockets.
AS_DAEMON = (
    "systemd-run --quiet --pipe --wait --uid=code-server-multi --gid=code-server-multi"
    " --property='SupplementaryGroups=systemd-journal nginx'"
    " --setenv=CSM_CONTRACT_MANIFEST=/etc/code-server-multi/manifest.json --setenv=CSM_CONTRACT_RUN=/run/code-server-multi"
)
TEST = f"{PREFIX}/bin/contract --ignored --exact --nocapture adapters::systemd::tests::systemd_keeps_the_contract"

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with tempfile.NamedTemporaryFile(prefix="guest-") as disk:
    payload.write(disk, "smoke")
    with driver.copy_of(sys.argv[1], disk.name) as guest:
        driver.apply(guest, "smoke")
        guest.succeed(
            # The daemon would stop workspaces that it did not start.
            "systemctl stop code-server-multi",
            f"cat > {START} <<'END'\n#!/usr/bin/perl\n{PROGRAM.read_text()}END",
        )
        began = time.monotonic()
        status, said = guest.execute(f"{AS_DAEMON} {TEST} 2>&1")
        if status:
            driver.show_journal(guest)
        print(said)
        print(f"contract: {'FAILED' if status else 'kept'} on systemd, {time.monotonic() - began:.0f} s")
        sys.exit(1 if status else 0)
