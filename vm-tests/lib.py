# Functions that all scenarios use; default.nix prepends this file to each. It needs only the driver's `machine`.
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
    # One after the other, with retries: code-server exits when a step of its own start takes ten seconds, and an emulated processor is
    # slow.
    for name in names:
        machine.wait_until_succeeds(f"csm start {name}")


def status(name):
    """A workspace's status, from the daemon."""
    return json.loads(machine.succeed(f"csm status {name} --json"))


def wait_for_state(name, state):
    machine.wait_until_succeeds(f"csm status {name} --json | grep --fixed-strings '\"state\":\"{state}\"'")
    return status(name)


def main_pid(service):
    pid = machine.succeed(f"systemctl show --property=MainPID --value {service}").strip()
    assert pid != "0", f"{service} is not running"
    return pid


def wait_for_status(url, code):
    ask = f"curl --silent --output /dev/null --write-out '%{{http_code}}' {NAVIGATE} {url}"
    machine.wait_until_succeeds(f"test $({ask}) = {code}")


def as_account(name, command):
    """A command line that runs `command` as the owner's account, outside the workspace."""
    place = f"code-server-workspaces/{name}/main"
    account = f"setpriv --reuid=csm-{name} --regid=csm-{name} --init-groups"
    environment = f"env --chdir=/ HOME=/var/lib/{place} XDG_RUNTIME_DIR=/run/{place}"
    return f"{account} {environment} sh -c {shlex.quote(command)} </dev/null"


def cgroup(name):
    """A command line that prints the directory of the cgroup with the workspace's launcher."""
    return f"echo /sys/fs/cgroup$(cut -d : -f 3 /proc/{main_pid(unit(name))}/cgroup)"


def inside(name, command):
    """A command line that runs `command` as the owner, in their workspace."""
    return f"csm shell {name} -- sh -c {shlex.quote(command)} </dev/null"


def processes(name):
    """PIDs of the workspace's launcher, conmon and first process in the container. They change only when the workspace is restarted."""
    # Without a bus, Podman does not ask logind for the account's session.
    inspect = f"DBUS_SYSTEM_BUS_ADDRESS=disabled: podman container inspect --format '{{{{.State.ConmonPid}}}} {{{{.State.Pid}}}}' csm-{name}"
    return [main_pid(unit(name)), *machine.succeed(as_account(name, inspect)).split()]


def assert_open(*holders):
    """Asserts that these connections are open: curl exits when its connection is closed."""
    for holder in holders:
        active, said = machine.execute(f"systemctl is-active {holder} || journalctl --no-pager --unit={holder} --lines=3")
        assert active == 0 and said.strip() == "active", f"{holder}'s connection was closed: {said}"


class Visitor:
    """A user with a browser: curl with a cookie jar."""

    def __init__(self, name, authority=None):
        self.name = name
        # The certificate authority to trust; by default, those that the machine trusts.
        self.trust = f"--cacert {authority}" if authority else ""
        self.jar = f"/run/test/{name}.cookies"
        machine.succeed(f"rm -f {self.jar}")

    def ask(self, arguments):
        """A command line that sends a request as this user's browser."""
        cookies = f"--cookie {self.jar} --cookie-jar {self.jar}"
        return f"curl --silent --show-error --max-time 120 {self.trust} {cookies} {arguments}"

    def curl(self, arguments):
        return machine.succeed(self.ask(arguments))

    def sign_in(self, expect=None):
        """Opens the workspace's address and signs in with the password in /run/test, which starts the workspace; returns the editor's
        page. With `expect`, waits until the workspace's page shows that text instead: the workspace can't start."""
        ask = f"--location --output /dev/null --write-out '%{{url_effective}}' {NAVIGATE}"
        form = self.curl(f"{ask} https://{self.name}.code.test/")
        assert form.startswith("https://code.test/sign-in?handshake="), f"{self.name} is redirected to {form}"
        handshake = form.partition("=")[2]
        fields = f"--data-urlencode name={self.name} --data-urlencode password@/run/test/{self.name} --data handshake={handshake}"
        answer = "--output /dev/null --write-out '%{http_code} %{redirect_url}'"
        said = self.curl(f"{answer} --header 'Origin: https://code.test' {fields} https://code.test/sign-in")
        assert said == f"303 https://code.test/open?handshake={handshake}", f"{self.name}'s sign-in gets {said}"
        self.curl(f"--location --output /dev/null {NAVIGATE} {said.split()[1]}")
        if expect is None:
            return self.wake()
        page = self.ask(f"{NAVIGATE} https://{self.name}.code.test/")
        return machine.wait_until_succeeds(f"{page} | grep --fixed-strings {shlex.quote(expect)}")

    def wake(self):
        """Opens the workspace's address as a signed-in user, until the editor replaces the wake page; returns the editor's page."""
        machine.wait_until_succeeds(self.ask(f"--location --fail --output /dev/null {NAVIGATE} https://{self.name}.code.test/"))
        return self.editor()

    def open_websocket(self):
        """Opens the editor's WebSocket from a unit, and returns the unit's name. The editor keeps it open, waiting for its page's messages."""
        holder = f"websocket-{self.name}"
        release = f"grep --only-matching --max-count=1 'stable-[0-9a-f]*' {self.jar}.page | head --lines=1"
        host = f"{self.name}.code.test"
        self.curl(f"--fail --output {self.jar}.page {NAVIGATE} https://{host}/")
        # As a header: curl does not send https cookies over wss with --cookie.
        cookie = machine.succeed(f"awk '$1 == \"#HttpOnly_{host}\" {{ print $6 \"=\" $7 }}' {self.jar}").strip()
        query = f"reconnectionToken={uuid.uuid4()}&reconnection=false&skipWebSocketFrames=false"
        machine.succeed(
            f"systemctl stop {holder}.service 2>/dev/null || true",
            f"systemd-run --quiet --collect --unit={holder} $(command -v curl) --silent --show-error --no-buffer {self.trust}"
            f" --header 'Cookie: {cookie}' --header 'Origin: https://{host}' \"wss://{host}/$({release})?{query}\"",
        )
        # The server sends the first message.
        machine.wait_until_succeeds(f"journalctl --unit={holder} --output=json _COMM=curl | grep .")
        assert_open(holder)
        return holder

    def editor(self):
        return self.page(f"https://{self.name}.code.test/")

    def page(self, url):
        page = self.curl(f"--location --fail {NAVIGATE} {url}")
        assert "vscode-workbench-web-configuration" in page, f"{self.name} did not get the editor: {page[:2000]}"
        return page


