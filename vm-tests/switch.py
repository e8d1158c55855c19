# A switch adds, changes and removes users while others work. The generations are specialisations, declared in default.nix.
wait_for_front_door()
start("ada", "grace")
base = machine.succeed("readlink --canonicalize /run/current-system").strip()
daemon = main_pid("code-server-multi")


def switch(generation):
    machine.succeed(f"{base}{generation}/bin/switch-to-configuration test")


def running(*names):
    return {"nginx": main_pid("nginx"), **{name: processes(name) for name in names}}


visitors = {name: Visitor(name) for name in ("ada", "grace")}
for visitor in visitors.values():
    visitor.sign_in()
# The editors stay open during all switches.
open_editors = [visitor.open_websocket() for visitor in visitors.values()]
before = running("ada", "grace")

with subtest("a user is added"):
    switch("/specialisation/added")
    wait_for_status("https://alan.code.test/", 303)
    assert running("ada", "grace") == before, "adding alan restarted nginx or a workspace"
    assert main_pid("code-server-multi") == daemon, "the new manifest restarted the daemon, which should only reload it"
    assert_open(*open_editors)
    start("alan")
    Visitor("alan").sign_in()
    machine.succeed(inside("alan", "echo kept > ~/project/kept"))

with_alan = running("ada", "grace", "alan")

with subtest("a limit, an image and a virtual host of nginx are changed"):
    switch("/specialisation/changed")
    # nginx reloads asynchronously.
    machine.wait_until_succeeds("curl --fail --silent http://extra.test/ | grep extra")
    limit = machine.succeed("systemctl show --property=MemoryMax --value code-server-ada.slice").strip()
    assert limit == str(2 << 30), f"ada's slice has MemoryMax={limit}"
    assert running("ada", "grace", "alan") == with_alan, "a changed limit restarted nginx or a workspace"
    assert main_pid("code-server-multi") == daemon, "a changed limit restarted the daemon"
    assert_open(*open_editors)

with subtest("the daemon's own unit is changed"):
    switch("/specialisation/upgraded")
    wait_for_status("https://code.test/sign-in", 200)
    assert main_pid("code-server-multi") != daemon, "the daemon still runs with its old unit"
    assert running("ada", "grace", "alan") == with_alan, "the daemon's restart restarted nginx or a workspace"
    assert_open(*open_editors)

with subtest("a user is removed"):
    switch("")
    wait_for_status("https://alan.code.test/", 404)
    machine.wait_until_succeeds(f"test $(systemctl show --property=ActiveState --value {unit('alan')}) = inactive")
    kept = machine.succeed("cat /var/lib/vscode/alan/workspace/kept").strip()
    assert kept == "kept", f"alan's file holds {kept}"
    assert running("ada", "grace") == before, "removing alan restarted nginx or a workspace"
    assert_open(*open_editors)

with subtest("a pending change is applied on a click, and restarts only that workspace"):
    switch("/specialisation/changed")
    for name in ("ada", "grace"):
        machine.wait_until_succeeds(f"csm status {name} --json | grep '\"updatePending\":true'")
    dashboard = visitors["ada"].curl(f"{NAVIGATE} --location https://code.test/")
    assert "update pending" in dashboard, "the dashboard does not show the pending update"
    # The button's URL contains the token; its request has no body.
    click = dashboard.split('formaction="/workspaces/ada/restart?')[1].split('"')[0]
    answer = visitors["ada"].curl(
        "--output /dev/null --write-out '%{http_code}' --header 'Origin: https://code.test'"
        f" --request POST 'https://code.test/workspaces/ada/restart?{click}'"
    )
    assert answer == "303", f"the click gets {answer}"
    machine.wait_until_succeeds("csm status ada --json | grep '\"updatePending\":false'")
    wait_for_state("ada", "running")
    now = running("ada", "grace")
    assert now["ada"] != before["ada"], "ada's workspace was not restarted"
    assert now["grace"] == before["grace"], "grace's workspace was restarted too"
    assert_open("websocket-grace")
    visitors["ada"].wake()

with subtest("an image that can't be pulled is shown as the reason"):
    code, said = machine.execute("csm restart grace 2>&1")
    assert code != 0 and "can't pull image localhost/another:1" in said, f"csm restart exits with {code}: {said}"
    code = machine.succeed(f"systemctl show --property=ExecMainStatus --value {unit('grace')}").strip()
    # EX_UNAVAILABLE of sysexits(3).
    assert code == "69", f"its launcher exited with {code}"

with subtest("a workspace of a user who is not declared is stopped, and the daemon logs it"):
    ghost = "/run/systemd/system/code-server-ghost@.service"
    machine.succeed(f"printf '[Service]\nExecStart=/bin/sh -c \"kill -STOP $$$$\"\n' > {ghost} && systemctl daemon-reload")
    machine.succeed(f"systemctl start {unit('ghost')}")
    machine.wait_until_succeeds(f"test $(systemctl show --property=ActiveState --value {unit('ghost')}) = inactive")
    machine.succeed("journalctl --no-pager --unit=code-server-multi | grep 'ghost: stopped: it is no longer declared'")
