# The front door, and both people's way through it to their editors.
wait_for_front_door()

with subtest("the dashboard asks for a sign-in"):
    page = machine.succeed("curl --fail --silent https://code.test/sign-in")
    assert "Sign in" in page, f"no form: {page}"

with subtest("a workspace's host leads a stranger to the sign-in"):
    headers = machine.succeed(f"curl --silent --dump-header - --output /dev/null {NAVIGATE} https://ada.code.test/")
    assert "303" in headers and "https://code.test/open?handshake=" in headers, f"it answers {headers}"

with subtest("a label that nobody has is a page that says so"):
    wait_for_status("https://nobody.code.test/", 404)

with subtest("another host name gets no certificate"):
    ask = "curl --silent --show-error --insecure --resolve other.test:443:127.0.0.1 https://other.test/"
    status, said = machine.execute(f"{ask} 2>&1")
    # 35: the handshake itself is refused.
    assert status == 35, f"curl ends with {status}: {said}"

with subtest("passwords are the daemon's alone"):
    kept = machine.succeed("stat --format '%U %a' /run/code-server-multi-passwords/ada").strip()
    assert kept == "code-server-multi 400", f"ada's password is {kept}"

start("ada", "grace")
for name in ("ada", "grace"):
    with subtest(f"{name} signs in and gets the editor"):
        machine.wait_for_unit(unit(name))
        machine.succeed(f"test -S /run/code-server-multi/ws/{name}/http.sock")
        Visitor(name).sign_in()
