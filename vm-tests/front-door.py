# What does not need a workspace to run: the daemon, the certificate, sign-in, and hosts that nobody has.
machine.wait_for_unit("code-server-multi.service")
machine.wait_for_unit("nginx.service")
machine.wait_for_open_port(443)

with subtest("the dashboard asks for a sign-in"):
    machine.succeed("curl --fail --silent https://code.test/sign-in | grep 'Sign in'")

with subtest("a workspace's host leads a stranger to the sign-in"):
    headers = machine.succeed("curl --silent --dump-header - --output /dev/null --header 'Sec-Fetch-Mode: navigate' https://ada.code.test/")
    assert "303" in headers and "https://code.test/open?handshake=" in headers, headers

with subtest("a label that nobody has is a page that says so"):
    status = machine.succeed("curl --silent --output /dev/null --write-out '%{http_code}' https://nobody.code.test/")
    assert status == "404", status

with subtest("another host name gets no certificate"):
    machine.fail("curl --silent --insecure --resolve other.test:443:127.0.0.1 https://other.test/")

with subtest("passwords are the daemon's alone"):
    machine.succeed("test \"$(stat -c '%U %a' /run/code-server-multi-passwords/ada)\" = 'code-server-multi 400'")
    machine.fail("su -s /bin/sh csm-grace -c 'cat /run/code-server-multi-passwords/ada'")
