"""Runs the guest in QEMU. A snapshot of its memory can be loaded only with the same hardware, which is defined here."""

import contextlib
import json
import pathlib
import select
import socket
import subprocess
import tempfile
import time


class Guest:
    """A QEMU process with its two sockets: the guest's shell, and QMP."""

    def __init__(self, place, disk, disk_format, second_disk, more):
        self.place = place
        self.scratch = tempfile.TemporaryDirectory(prefix="guest-")
        self.console = f"{self.scratch.name}/console"
        data = f"{place}/qemu/root/usr/share"
        arguments = [
            f"{place}/qemu/run", "qemu-system-x86_64", "-L", f"{data}/qemu", "-L", f"{data}/seabios",
            "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max", "-smp", "2", "-m", "4096",
            "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot",
            "-kernel", f"{place}/kernel", "-initrd", f"{place}/initrd",
            "-append", "console=ttyS0 root=/dev/vda rw panic=-1 quiet mitigations=off systemd.unified_cgroup_hierarchy=1",
            "-serial", f"file:{self.console}",
            "-drive", f"file={disk},if=virtio,format={disk_format},cache=unsafe",
            "-drive", f"file={second_disk},if=virtio,format=raw,readonly=on",
            "-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
            "-chardev", f"socket,id=shell,path={self.scratch.name}/shell,server=on,wait=off",
            "-device", "virtio-serial", "-device", "virtconsole,chardev=shell",
            "-qmp", f"unix:{self.scratch.name}/qmp,server=on,wait=off",
            *more,
        ]
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        self.shell = self.connect("shell")
        self.monitor = self.connect("qmp").makefile("rw")
        self.monitor.readline()
        self.ask("qmp_capabilities")

    def connect(self, name):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"QEMU exited with code {self.process.returncode}")
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(f"{self.scratch.name}/{name}")
                return connection
            time.sleep(0.1)
        raise RuntimeError(f"QEMU created no socket {name} within a minute")

    def ask(self, command, **arguments):
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        while True:
            response = json.loads(self.monitor.readline())
            if "error" in response:
                raise RuntimeError(f"QEMU refused {command}: {response['error']['desc']}")
            if "return" in response:
                return response["return"]

    def wait_for_move(self):
        """Waits until QEMU has written the memory to a file, or read it from one."""
        while True:
            status = self.ask("query-migrate").get("status")
            if status == "completed":
                return
            if status == "failed":
                raise RuntimeError("QEMU can't write or read the guest's memory")
            time.sleep(0.1)

    def line(self, seconds):
        """The next line from the shell."""
        line = b""
        until = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.shell], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the guest's shell printed nothing for {seconds} s; the end of its console:\n{self.console_end()}")
            piece = self.shell.recv(1 << 20)
            if not piece:
                raise RuntimeError(f"the guest's shell closed its connection; the end of its console:\n{self.console_end()}")
            line += piece
        return line.decode()

    def console_end(self):
        return "\n".join(pathlib.Path(self.console).read_text(errors="replace").splitlines()[-20:])

    def end(self):
        self.process.kill()
        self.process.wait()
        self.scratch.cleanup()
