# Secrets reach the workspace that they are for, and appear nowhere else.
wait_for_front_door()
# Created by the guest itself, so that no command line contains it.
machine.succeed("head --bytes=16 /dev/urandom | od -A n -t x1 | tr -d ' \\n' > /run/test/canary")
machine.succeed("cd /run/test && umask 077 && for name in token netrc key; do (echo -n $name-; cat canary) > $name; done")


def occurrences(command):
    machine.succeed(f"{command} > /run/test/searched && test -s /run/test/searched")
    return int(machine.succeed("grep --count --text --fixed-strings --file=/run/test/canary /run/test/searched || true"))


def token(name):
    return machine.succeed(inside(name, '. /opt/code-server-multi/environment && echo -n "$TOKEN"'))


start("ada")

with subtest("the workspace has its secret variables and files, with their modes"):
    assert token("ada") == machine.succeed("cat /run/test/token"), "the variable has another value"
    for path, source, mode in ((".netrc", "netrc", "600"), (".config/key", "key", "400")):
        actual = machine.succeed(inside("ada", f"stat --format '%a %U' ~/{path}")).strip()
        assert actual == f"{mode} coder", f"{path} is {actual}"
        content = machine.succeed(inside("ada", f"cat ~/{path}"))
        assert content == machine.succeed(f"cat /run/test/{source}"), f"{path} holds {content}"

with subtest("secrets are nowhere else"):
    assert occurrences("cat /run/code-server-multi/secrets/ada/environment/TOKEN") == 1, "the search does not find a secret that is there"
    for command in (
        "journalctl --no-pager --output=export",
        "cat /etc/code-server-multi/manifest.json",
        "ps -e -ww -o args",
        # The environments of the launcher, podman and its helpers.
        f"for pid in $(cat $({cgroup('ada')})/cgroup.procs); do cat /proc/$pid/environ || true; done",
        f"systemctl show --all {unit('ada')}",
        f"systemctl cat {unit('ada')}",
        as_account("ada", "podman container inspect csm-ada"),
    ):
        assert occurrences(command) == 0, f"a secret is in what this prints: {command}"

with subtest("a process that crashes leaves no core dump"):
    limits = machine.succeed(f"grep '^Max core file size' /proc/{processes('ada')[-1]}/limits").split()
    assert limits[4:6] == ["0", "0"], f"its limits are {limits}"
    limit = machine.succeed(inside("ada", "ulimit -H -c")).strip()
    assert limit == "0", f"in a shell that root opens it is {limit}"

with subtest("a missing or empty secret keeps only its own workspace from starting, and the page shows why"):
    before = processes("ada")
    reason = "the secret /run/test/late: it is empty or missing; write its value into it"
    grace = Visitor("grace")
    machine.succeed("rm -f /run/test/late")
    grace.sign_in(expect=reason)
    machine.succeed("truncate --size=0 /run/test/late")
    code, said = machine.execute("csm start grace 2>&1")
    assert code != 0 and reason in said, f"csm start exits with {code}: {said}"
    code = machine.succeed(f"systemctl show --property=ExecMainStatus --value {unit('grace')}").strip()
    # EX_CONFIG of sysexits(3).
    assert code == "78", f"its launcher exited with {code}"
    assert processes("ada") == before, "ada's workspace was restarted"
    machine.succeed("echo -n came-late > /run/test/late")
    # An admin may start the unit with systemctl instead of csm.
    machine.succeed(f"systemctl start {unit('grace')}")
    wait_for_state("grace", "running")
    assert token("grace") == "came-late", "grace has another value"

with subtest("a new value takes effect at the workspace's next start"):
    before = processes("grace")
    machine.succeed("echo -n rotated > /run/test/token")
    machine.succeed(f"systemctl restart {unit('ada')}")
    assert token("ada") == "rotated", "ada still has the old value"
    assert processes("grace") == before, "grace's workspace was restarted too"

with subtest("a new password takes effect immediately"):
    daemon = main_pid("code-server-multi")
    machine.succeed("echo -n new-password > /run/test/ada")
    machine.wait_until_succeeds("grep new-password /run/code-server-multi-passwords/ada")
    Visitor("ada").sign_in()
    assert main_pid("code-server-multi") == daemon, "the daemon was restarted for it"

with subtest("a workspace that is stopped leaves no copies"):
    machine.succeed(f"systemctl stop {unit('ada')}")
    left = machine.succeed("ls /run/code-server-multi/secrets/ada").strip()
    assert left == "", f"copies are left: {left}"
