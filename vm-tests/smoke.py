# Sign-in, and how both users get to their editors.
wait_for_front_door()

with subtest("the dashboard asks for a sign-in"):
    page = machine.succeed("curl --fail --silent https://code.test/sign-in")
    assert "Sign in" in page, f"no form: {page}"

with subtest("a workspace's host redirects an unauthenticated visitor to the sign-in"):
    headers = machine.succeed(f"curl --silent --dump-header - --output /dev/null {NAVIGATE} https://ada.code.test/")
    assert "303" in headers and "https://code.test/open?handshake=" in headers, f"its response is {headers}"
    assert status("ada")["state"] == "stopped", "an unauthenticated visitor started it"

with subtest("a label that no user has gets a 404 page"):
    wait_for_status("https://nobody.code.test/", 404)

with subtest("another hostname gets no certificate"):
    ask = "curl --silent --show-error --insecure --resolve other.test:443:127.0.0.1 https://other.test/"
    code, said = machine.execute(f"{ask} 2>&1")
    # 35: nginx refuses the TLS handshake.
    assert code == 35, f"curl exits with {code}: {said}"

with subtest("only the daemon's account can read the passwords"):
    kept = machine.succeed("stat --format '%U %a' /run/code-server-multi-passwords/ada").strip()
    assert kept == "code-server-multi 400", f"ada's password is {kept}"

visitors = {}
for name in ("ada", "grace"):
    with subtest(f"{name}'s visit starts the workspace, and leads to the editor"):
        visitors[name] = Visitor(name)
        visitors[name].sign_in()
        assert status(name)["reason"] == f"opened by {name}", f"it is {status(name)}"
        machine.wait_for_unit(unit(name))
        machine.succeed(f"test -S /run/code-server-multi/ws/{name}/http.sock")

with subtest("the body of an unauthenticated request is not taken for the next request"):
    machine.succeed("printf 'GET /_csm/static/style.css HTTP/1.1\\r\\nX-Swallow: ' > /run/test/smuggled")
    for version in ("1.1", "2"):
        ask = f"curl --silent --output /dev/null --write-out '%{{http_code}} ' --http{version}"
        smuggle = f"{ask} --data-binary @/run/test/smuggled https://ada.code.test/"
        chunked = f"{smuggle} --header 'Transfer-Encoding: chunked'" if version == "1.1" else smuggle
        said = machine.succeed(f"for n in 1 2 3 4 5; do {smuggle}; {chunked}; {ask} https://ada.code.test/; done")
        assert said.split() == ["401"] * 15, f"over HTTP/{version}: {said}"
    visitors["grace"].editor()

with subtest("the daemon shows what a workspace uses, from its unit"):
    usage = json.loads(machine.succeed("curl --fail --silent --unix-socket /run/code-server-multi/api.sock 'http://csm/api/v1/workspaces?measure=true'"))
    for one in usage:
        assert one["usage"]["memory"] > 50 << 20 and one["usage"]["tasks"] > 5, f"{one['id']} uses {one['usage']}"

with subtest("the dashboard shows the disk usage that a launcher measured: the daemon can't read homes"):
    # The daemon reads the figures while a dashboard is open. The launcher measures them at intervals, as the owner's account.
    look = f"{visitors['ada'].ask('--max-time 5 https://code.test/events')} || true; csm status ada --json | grep -E '\"disk\":[1-9]'"
    machine.wait_until_succeeds(look)

with subtest("csm logs prints a workspace's log"):
    said = machine.succeed("csm logs ada")
    assert "HTTP server listening" in said, f"its log is {said}"

with subtest("a frozen workspace uses no CPU, keeps its connections, and is thawed by a visit"):
    holder = visitors["ada"].open_websocket()
    before = processes("ada")
    machine.succeed("csm freeze ada")
    used = f"systemctl show --property=CPUUsageNSec --value {unit('ada')}"
    at_first = machine.succeed(used)
    # Loading grace's editor takes time, in which ada's workspace could use CPU.
    visitors["grace"].editor()
    assert machine.succeed(used) == at_first, "it used CPU while frozen"
    assert status("ada")["state"] == "frozen"
    said = machine.fail("csm shell ada -- true 2>&1")
    assert "ada is frozen; thaw it first: csm start ada" in said, f"csm shell prints {said}"
    visitors["ada"].editor()
    assert wait_for_state("ada", "running")["reason"] == "opened by ada"
    assert processes("ada") == before, "it was restarted"
    assert_open(holder)

with subtest("a stopped workspace starts again at the next visit"):
    machine.succeed("csm stop ada")
    assert machine.succeed(f"systemctl show --property=Result --value {unit('ada')}").strip() == "success"
    visitors["ada"].wake()

with subtest("a workspace that exits is shown as failed, with its exit code"):
    # Kills all processes except the first one, which exits when its child does.
    machine.execute(inside("grace", "kill -KILL -1"))
    failed = wait_for_state("grace", "failed")
    assert "exited with code 137" in failed["reason"], f"it is {failed}"
    code = machine.succeed(f"systemctl show --property=ExecMainStatus --value {unit('grace')}").strip()
    # EX_SOFTWARE of sysexits(3): it was not out of memory.
    assert code == "70", f"its launcher exited with {code}"
    code, said = machine.execute("csm shell grace -- true 2>&1")
    assert code == 1 and "can't open a shell in grace: it is not running; start it: csm start grace" in said, f"csm shell exits with {code}: {said}"

with subtest("a workspace whose account shares subordinate ids with another's does not start, and shows whose"):
    machine.succeed("cp /etc/subuid /run/test/subuid", "sed -n 's/^csm-ada:/csm-grace:/p' /run/test/subuid >> /etc/subuid")
    machine.fail("csm start grace")
    failed = wait_for_state("grace", "failed")
    assert "/etc/subuid gives csm-grace ids of csm-ada" in failed["failure"], f"it is {failed}"
    machine.succeed("cp /run/test/subuid /etc/subuid")
    start("grace")
