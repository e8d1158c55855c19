"""Drives the guest as the NixOS test driver drives its machines: with the same names in the scenarios' scripts, and the same protocol on
a virtio console. `run` calls it.

driver.py --boot PLACE: boots the disk in PLACE, and writes the guest's memory there.
driver.py PLACE --shell SCENARIO: runs the lines of standard input as root there, instead of the script.
driver.py PLACE [SCENARIO...]: for each of them, or for all, starts a copy of that guest, applies the scenario's configuration and runs its script."""

import base64
import contextlib
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import payload
from qemu import Guest

# In seconds. The processor is emulated: everything takes five to ten times as long as on real hardware.
TIMEOUT = 400
HERE = pathlib.Path(__file__).resolve().parent


class Machine:
    """The scripts' `machine`: those methods of NixOS's own that they use, with the same names."""

    def __init__(self, guest):
        self.guest = guest

    def execute(self, command, timeout=TIMEOUT):
        inner = shlex.quote(f"set -euo pipefail; {command}")
        self.guest.shell.sendall(f"timeout {timeout} bash -c {inner} | (base64 -w 0; echo)\n".encode())
        said = base64.b64decode(self.guest.line(timeout + 60)).decode(errors="replace")
        self.guest.shell.sendall(b"echo ${PIPESTATUS[0]}\n")
        return int(self.guest.line(60)), said

    def succeed(self, *commands, timeout=TIMEOUT):
        output = ""
        for command in commands:
            status, said = self.execute(command, timeout)
            if status != 0:
                raise AssertionError(f"exit code {status}: {command}\n{said}")
            output += said
        return output

    def fail(self, *commands, timeout=TIMEOUT):
        output = ""
        for command in commands:
            status, said = self.execute(command, timeout)
            if status == 0:
                raise AssertionError(f"this should have failed: {command}\n{said}")
            output += said
        return output

    def wait_until(self, holds, what, timeout):
        until = time.monotonic() + timeout
        while not (found := holds())[0]:
            if time.monotonic() > until:
                raise AssertionError(f"timed out after {timeout} s: {what}\n{found[1]}")
            time.sleep(1)
        return found[1]

    def wait_until_succeeds(self, command, timeout=TIMEOUT):
        def holds():
            status, said = self.execute(command, timeout)
            return status == 0, said

        return self.wait_until(holds, command, timeout)

    def wait_until_fails(self, command, timeout=TIMEOUT):
        return self.wait_until_succeeds(f"! {{ {command}; }}", timeout)

    def wait_for_unit(self, unit, timeout=TIMEOUT):
        def holds():
            said = self.succeed(f"systemctl show --property=ActiveState,Job {shlex.quote(unit)}")
            state = dict(line.split("=", 1) for line in said.splitlines())
            if state["ActiveState"] == "failed" or (state["ActiveState"] == "inactive" and state.get("Job", "") in ("", "0")):
                raise AssertionError(f"{unit} is {state['ActiveState']} and no job starts it")
            return state["ActiveState"] == "active", said

        self.wait_until(holds, f"{unit} is active", timeout)

    def wait_for_open_port(self, port, timeout=TIMEOUT):
        self.wait_until_succeeds(f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null", timeout)

    def wait_for_file(self, path, timeout=TIMEOUT):
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", timeout)

    def systemctl(self, arguments):
        return self.execute(f"systemctl {arguments}")


def boot(place):
    """Boots the guest and saves its memory to a file; its disk stays as it is at that moment. The guest's shell starts last."""
    with tempfile.NamedTemporaryFile(prefix="guest-") as disk:
        disk.truncate(payload.SIZE)
        guest = Guest(place, f"{place}/disk", "raw", disk.name, [])
        try:
            while "Spawning" not in guest.line(TIMEOUT):
                pass
            machine = Machine(guest)
            state = machine.execute("systemctl is-system-running --wait")[1].strip()
            if state != "running":
                failed = machine.succeed("systemctl --no-pager --no-legend list-units --failed")
                raise RuntimeError(f"the guest is {state} after its boot:\n{failed}")
            guest.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            guest.ask("migrate", uri=f"file:{place}/memory")
            guest.wait_for_move()
        finally:
            guest.end()


@contextlib.contextmanager
def copy_of(place, second_disk):
    """A copy of the booted guest, with this file as its second disk. The copy is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="guest-") as scratch:
        overlay = f"{scratch}/disk"
        make = [f"{place}/qemu/run", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"{place}/disk", overlay]
        subprocess.run(make, check=True)
        guest = Guest(place, overlay, "qcow2", second_disk, ["-incoming", f"file:{place}/memory"])
        try:
            guest.wait_for_move()
            yield Machine(guest)
        finally:
            guest.end()


def apply(machine, scenario):
    # The guest's clock still shows the time of its boot.
    machine.succeed(f"date --set=@{int(time.time())}", "tar --extract --file=/dev/vdb --directory=/")
    machine.succeed(f"{payload.system(scenario)}/bin/switch-to-configuration test 2>&1")


def show_journal(machine):
    units = ("code-server-multi", "code-server-multi-passwords", "nginx", "'code-server-*@main.service'")
    for unit in units:
        print(f"--- the last log lines of {unit}")
        print(machine.execute(f"journalctl --no-pager --lines=40 --output=short-monotonic --unit={unit}")[1])


def run(place, scenario):
    """Runs a scenario's script; returns how many of its subtests passed and failed. The first failure stops the script."""
    passed = 0
    failed = []

    @contextlib.contextmanager
    def subtest(name):
        nonlocal passed
        began = time.monotonic()
        try:
            yield
        except Exception:
            failed.append(name)
            raise
        passed += 1
        print(f"pass: {scenario}: {name} ({time.monotonic() - began:.0f} s)", flush=True)

    script = "".join((HERE.parent / name).read_text() for name in ("lib.py", f"{scenario}.py"))
    with tempfile.NamedTemporaryFile(prefix="guest-") as disk:
        payload.write(disk, scenario)
        with copy_of(place, disk.name) as machine:
            try:
                apply(machine, scenario)
                exec(compile(script, f"{scenario}.py", "exec"), {"machine": machine, "subtest": subtest})
            except Exception as error:
                what = failed[0] if failed else "outside its subtests"
                print(f"FAIL: {scenario}: {what}: {type(error).__name__}: {error}")
                with contextlib.suppress(OSError, RuntimeError):
                    show_journal(machine)
                return passed, 1
    return passed, 0


def shell(place, scenario):
    """Runs the lines of standard input in a guest with the scenario's configuration."""
    with tempfile.NamedTemporaryFile(prefix="guest-") as disk:
        payload.write(disk, scenario)
        with copy_of(place, disk.name) as machine:
            apply(machine, scenario)
            print("guest: enter commands; the guest is killed at the end of the input", flush=True)
            for line in sys.stdin:
                status, said = machine.execute(f"{{ {line.strip()}; }} 2>&1")
                print(said, end="" if status == 0 else f"({status})\n", flush=True)


def main(arguments):
    if arguments[0] == "--boot":
        boot(arguments[1])
        return 0
    place, *wanted = arguments
    if wanted and wanted[0] == "--shell":
        shell(place, *wanted[1:])
        return 0
    every = sorted((path.stem for path in HERE.parent.glob("*.py") if path.stem != "lib"), key=lambda name: (name != "smoke", name))
    unknown = [name for name in wanted if name not in every]
    if unknown:
        sys.exit(f"guest: unknown scenario {unknown[0]}; use one of: {', '.join(every)}")
    passed = failed = 0
    for scenario in wanted or every:
        some_passed, some_failed = run(place, scenario)
        passed += some_passed
        failed += some_failed
    print(f"guest: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    # On SIGTERM, exits through the cleanup that kills the guest.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
