# What the scenarios share; default.nix puts it in front of each of them. It needs nothing but the driver's `machine`.
import shlex

NAVIGATE = "--header 'Sec-Fetch-Mode: navigate'"


def unit(name):
    return f"code-server-{name}@main.service"


def wait_for_front_door():
    machine.wait_for_unit("code-server-multi.service")
    machine.wait_for_unit("nginx.service")
    machine.wait_for_open_port(443)


# The daemon does not start units yet, so nobody's visit does.
def start(*names):
    # One after the other: code-server gives up when its own start takes ten seconds, and an emulated processor is slow.
    for name in names:
        machine.succeed(f"systemctl start {unit(name)}")


def main_pid(service):
    pid = machine.succeed(f"systemctl show --property=MainPID --value {service}").strip()
    assert pid != "0", f"{service} does not run"
    return pid


def wait_for_status(url, status):
    ask = f"curl --silent --output /dev/null --write-out '%{{http_code}}' {NAVIGATE} {url}"
    machine.wait_until_succeeds(f"test $({ask}) = {status}")


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
    shell = as_account(name, f"csm shell {name} -- sh -c {shlex.quote(command)}")
    # The account may move a process into the container's cgroup only from one that is its own too.
    return f"sh -c {shlex.quote(f'echo $$ > $({cgroup(name)})/cgroup.procs && exec {shell}')}"


def processes(name):
    """The workspace's launcher, conmon and first process inside: the same for as long as nobody restarts it."""
    inspect = f"podman container inspect --format '{{{{.State.ConmonPid}}}} {{{{.State.Pid}}}}' csm-{name}"
    return [main_pid(unit(name)), *machine.succeed(as_account(name, inspect)).split()]


class Visitor:
    """A person with a browser of their own: curl with a cookie jar."""

    def __init__(self, name):
        self.name = name
        self.jar = f"/run/test/{name}.cookies"
        machine.succeed(f"rm -f {self.jar}")

    def curl(self, arguments):
        cookies = f"--cookie {self.jar} --cookie-jar {self.jar}"
        return machine.succeed(f"curl --silent --show-error --max-time 120 {cookies} {arguments}")

    def sign_in(self):
        """From the workspace's address through the form, with the password in /run/test, and back; returns the editor's page."""
        ask = f"--location --output /dev/null --write-out '%{{url_effective}}' {NAVIGATE}"
        form = self.curl(f"{ask} https://{self.name}.code.test/")
        assert form.startswith("https://code.test/sign-in?handshake="), f"{self.name} is led to {form}"
        handshake = form.partition("=")[2]
        fields = f"--data-urlencode name={self.name} --data-urlencode password@/run/test/{self.name} --data handshake={handshake}"
        answer = "--output /dev/null --write-out '%{http_code} %{redirect_url}'"
        said = self.curl(f"{answer} --header 'Origin: https://code.test' {fields} https://code.test/sign-in")
        assert said == f"303 https://code.test/open?handshake={handshake}", f"{self.name}'s sign-in is answered with {said}"
        return self.page(said.split()[1])

    def editor(self):
        return self.page(f"https://{self.name}.code.test/")

    def page(self, url):
        page = self.curl(f"--location --fail {NAVIGATE} {url}")
        assert "vscode-workbench-web-configuration" in page, f"no editor for {self.name}: {page[:2000]}"
        return page


