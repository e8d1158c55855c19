# What the scenarios share; default.nix puts it in front of each of them. It needs nothing but the driver's `machine`.
import json
import shlex
import time
import uuid

NAVIGATE = "--header 'Sec-Fetch-Mode: navigate'"


def unit(name):
    return f"code-server-{name}@main.service"


def wait_for_front_door():
    machine.wait_for_unit("code-server-multi.service")
    machine.wait_for_unit("nginx.service")
    machine.wait_for_open_port(443)


def start(*names):
    # One after the other, and again where it must be: code-server gives up when a part of its own start takes ten seconds, and an
    # emulated processor is slow.
    for name in names:
        machine.wait_until_succeeds(f"csm start {name}")


def status(name):
    """What the daemon says of a workspace."""
    return json.loads(machine.succeed(f"csm status {name} --json"))


def wait_for_state(name, state):
    machine.wait_until_succeeds(f"csm status {name} --json | grep --fixed-strings '\"state\":\"{state}\"'")
    return status(name)


def main_pid(service):
    pid = machine.succeed(f"systemctl show --property=MainPID --value {service}").strip()
    assert pid != "0", f"{service} does not run"
    return pid


def wait_for_status(url, code):
    ask = f"curl --silent --output /dev/null --write-out '%{{http_code}}' {NAVIGATE} {url}"
    machine.wait_until_succeeds(f"test $({ask}) = {code}")


def as_account(name, command):
    """A command line that runs `command` as the person's account, outside of the workspace."""
    place = f"code-server-workspaces/{name}/main"
    account = f"setpriv --reuid=csm-{name} --regid=csm-{name} --init-groups"
    environment = f"env --chdir=/ HOME=/var/lib/{place} XDG_RUNTIME_DIR=/run/{place}"
    return f"{account} {environment} sh -c {shlex.quote(command)} </dev/null"


def cgroup(name):
    """A command line that prints the directory of the cgroup with the workspace's launcher."""
    return f"echo /sys/fs/cgroup$(cut -d : -f 3 /proc/{main_pid(unit(name))}/cgroup)"


def inside(name, command):
    """A command line that runs `command` as the person, in their workspace."""
    return f"csm shell {name} -- sh -c {shlex.quote(command)} </dev/null"


def processes(name):
    """The workspace's launcher, conmon and first process inside: the same for as long as nobody restarts it."""
    # It asks nobody for the account's session.
    inspect = f"DBUS_SYSTEM_BUS_ADDRESS=disabled: podman container inspect --format '{{{{.State.ConmonPid}}}} {{{{.State.Pid}}}}' csm-{name}"
    return [main_pid(unit(name)), *machine.succeed(as_account(name, inspect)).split()]


def assert_open(*holders):
    """Nothing ended these connections: curl would have ended with them."""
    for holder in holders:
        active, said = machine.execute(f"systemctl is-active {holder} || journalctl --no-pager --unit={holder} --lines=3")
        assert active == 0 and said.strip() == "active", f"{holder}'s connection has ended: {said}"


class Visitor:
    """A person with a browser of their own: curl with a cookie jar."""

    def __init__(self, name, authority=None):
        self.name = name
        # Whose certificates count; without one, those that the machine trusts.
        self.trust = f"--cacert {authority}" if authority else ""
        self.jar = f"/run/test/{name}.cookies"
        machine.succeed(f"rm -f {self.jar}")

    def ask(self, arguments):
        """A command line that asks as this person's browser."""
        cookies = f"--cookie {self.jar} --cookie-jar {self.jar}"
        return f"curl --silent --show-error --max-time 120 {self.trust} {cookies} {arguments}"

    def curl(self, arguments):
        return machine.succeed(self.ask(arguments))

    def sign_in(self, expect=None):
        """From the workspace's address through the form, with the password in /run/test, and back, which starts the workspace;
        returns the editor's page. With `expect`, the workspace can't start, and its page says that."""
        ask = f"--location --output /dev/null --write-out '%{{url_effective}}' {NAVIGATE}"
        form = self.curl(f"{ask} https://{self.name}.code.test/")
        assert form.startswith("https://code.test/sign-in?handshake="), f"{self.name} is led to {form}"
        handshake = form.partition("=")[2]
        fields = f"--data-urlencode name={self.name} --data-urlencode password@/run/test/{self.name} --data handshake={handshake}"
        answer = "--output /dev/null --write-out '%{http_code} %{redirect_url}'"
        said = self.curl(f"{answer} --header 'Origin: https://code.test' {fields} https://code.test/sign-in")
        assert said == f"303 https://code.test/open?handshake={handshake}", f"{self.name}'s sign-in is answered with {said}"
        self.curl(f"--location --output /dev/null {NAVIGATE} {said.split()[1]}")
        if expect is None:
            return self.wake()
        page = self.ask(f"{NAVIGATE} https://{self.name}.code.test/")
        return machine.wait_until_succeeds(f"{page} | grep --fixed-strings {shlex.quote(expect)}")

    def wake(self):
        """Opens the workspace's address as somebody who is signed in, until the wake page has become the editor."""
        machine.wait_until_succeeds(self.ask(f"--location --fail --output /dev/null {NAVIGATE} https://{self.name}.code.test/"))
        return self.editor()

    def open_websocket(self):
        """The editor's own connection, held by a unit, whose name this returns. The editor waits for what its page would say next."""
        holder = f"websocket-{self.name}"
        release = f"grep --only-matching --max-count=1 'stable-[0-9a-f]*' {self.jar}.page | head --lines=1"
        host = f"{self.name}.code.test"
        self.curl(f"--fail --output {self.jar}.page {NAVIGATE} https://{host}/")
        # Not by --cookie: curl keeps cookies of https from wss.
        cookie = machine.succeed(f"awk '$1 == \"#HttpOnly_{host}\" {{ print $6 \"=\" $7 }}' {self.jar}").strip()
        query = f"reconnectionToken={uuid.uuid4()}&reconnection=false&skipWebSocketFrames=false"
        machine.succeed(
            f"systemctl stop {holder}.service 2>/dev/null || true",
            f"systemd-run --quiet --collect --unit={holder} $(command -v curl) --silent --show-error --no-buffer {self.trust}"
            f" --header 'Cookie: {cookie}' --header 'Origin: https://{host}' \"wss://{host}/$({release})?{query}\"",
        )
        # The server speaks first.
        machine.wait_until_succeeds(f"journalctl --unit={holder} --output=json _COMM=curl | grep .")
        assert_open(holder)
        return holder

    def editor(self):
        return self.page(f"https://{self.name}.code.test/")

    def page(self, url):
        page = self.curl(f"--location --fail {NAVIGATE} {url}")
        assert "vscode-workbench-web-configuration" in page, f"no editor for {self.name}: {page[:2000]}"
        return page


