# The daemon's ends, a manifest that it can't use, and what its account may do.
wait_for_front_door()
start("ada", "grace")
ada = Visitor("ada")
ada.sign_in()
workspaces = {name: processes(name) for name in ("ada", "grace")}


def ended_by(signal):
    pid = main_pid("code-server-multi")
    machine.succeed(f"kill -{signal} {pid}")
    machine.wait_until_succeeds(f"test $(systemctl show --property=MainPID --value code-server-multi) != {pid}")
    wait_for_status("https://code.test/sign-in", 200)
    assert {name: processes(name) for name in workspaces} == workspaces, "a workspace did not outlive the daemon"
    # With the session from before.
    ada.editor()


with subtest("a daemon that crashes is back, and nobody is signed out"):
    ended_by("KILL")

with subtest("a daemon that hangs is ended by the watchdog, and is back"):
    ended_by("STOP")
    machine.succeed("journalctl --no-pager --unit=code-server-multi | grep 'Watchdog timeout'")

with subtest("a manifest that is cut off changes nothing"):
    pid = main_pid("code-server-multi")
    manifest = "/etc/code-server-multi/manifest.json"
    # It is a link, which comes back as it was.
    machine.succeed(f"mv {manifest} {manifest}.whole")
    length = int(machine.succeed(f"wc --bytes < {manifest}.whole"))
    told = "journalctl --no-pager --unit=code-server-multi --cursor-file=/run/test/cursor"
    for kept in (length // 2, length - 1):
        machine.succeed(f"head --bytes={kept} {manifest}.whole > {manifest}")
        machine.succeed(f"{told} > /dev/null && systemctl reload code-server-multi")
        machine.wait_until_succeeds(f"{told} | grep 'is refused, the one before stays in force'")
        Visitor("grace").sign_in()
    machine.succeed(f"mv {manifest}.whole {manifest} && {told} > /dev/null && systemctl reload code-server-multi")
    machine.wait_until_succeeds(f"{told} | grep 'a new manifest is in force'")
    assert main_pid("code-server-multi") == pid, "the daemon was restarted"
    assert {name: processes(name) for name in workspaces} == workspaces, "a workspace was restarted"

with subtest("its account manages the workspaces' units, and nothing else"):
    systemctl = "setpriv --reuid=code-server-multi --regid=code-server-multi --init-groups systemctl --no-ask-password"
    for asked in (
        "stop nginx.service",
        "restart code-server-multi.service",
        f"set-property --runtime {unit('grace')} MemoryMax=infinity",
        f"kill {unit('grace')}",
    ):
        status, said = machine.execute(f"{systemctl} {asked} 2>&1")
        assert status != 0 and "Access denied" in said, f"{asked}: {status}: {said}"
    assert processes("grace") == workspaces["grace"], "grace's workspace was touched"
    machine.succeed(f"{systemctl} restart {unit('grace')}")
    assert processes("grace") != workspaces["grace"], "grace's workspace was not restarted"
