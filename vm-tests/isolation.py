# What ada's workspace can reach of grace and of the machine, and what ada's account can reach, should anyone escape the container. Each
# refusal must have the expected reason: otherwise a missing program would pass for a refusal.
wait_for_front_door()
# pasta copies the network's configuration when a workspace starts, so the network must be up before.
address = machine.wait_until_succeeds("ip route get 192.0.2.1 | sed -n 's/.* src \\([0-9.]*\\).*/\\1/p'").strip()
machine.succeed("echo secret > /run/test/token")
start("ada", "grace")
machine.succeed("echo private > /var/lib/vscode/grace/home/diary")


def refused(run, name, command, reason):
    code, said = machine.execute(run(name, f"{{ {command}; }} 2>&1"))
    assert code != 0 and reason in said, f"{command} by {name}: expected \"{reason}\", got {code}: {said}"


with subtest("a workspace sees no directory of others"):
    for path in ("/var/lib/vscode", "/run/code-server-multi", "/run/code-server-multi-passwords", "/run/credentials"):
        refused(inside, "ada", f"ls {path}", "No such file or directory")

with subtest("a workspace reaches no process, port or bus of others"):
    refused(inside, "ada", f"kill -0 {processes('grace')[-1]}", "No such process")
    refused(inside, "ada", "ls /run/dbus /run/systemd", "No such file or directory")
    serve = "require('http').createServer((asked, answer) => answer.end('grace')).listen(3000, '0.0.0.0')"
    machine.succeed(inside("grace", f"node -e \"{serve}\" >/dev/null 2>&1 &"))
    machine.wait_until_succeeds(inside("grace", "curl --fail --silent http://127.0.0.1:3000/"))
    for host in ("127.0.0.1", address):
        refused(inside, "ada", f"curl --silent --verbose http://{host}:3000/", "Connection refused")

with subtest("ada's account can open nothing of grace's"):
    for path in (
        "/var/lib/vscode/grace/home/diary",
        "/run/code-server-multi/ws/grace/http.sock",
        "/run/code-server-multi/secrets/grace/environment/TOKEN",
        f"/run/credentials/{unit('grace')}/environment.TOKEN",
        "/run/code-server-multi-passwords/grace",
        "/run/code-server-workspaces/grace/main/containers",
        "/var/lib/code-server-workspaces/grace/main/.local",
    ):
        machine.succeed(f"test -e {path}")
        refused(as_account, "ada", f"ls {path}", "Permission denied")
    refused(as_account, "ada", f"kill -0 {main_pid(unit('grace'))}", "Operation not permitted")
    refused(as_account, "ada", f"systemctl --no-ask-password stop {unit('grace')}", "Interactive authentication required")

with subtest("ada's account can't open the daemon's sockets"):
    for socket in ("api.sock", "front.sock", "question.sock"):
        machine.succeed(f"test -S /run/code-server-multi/{socket}")
        connect = f"curl --silent --verbose --unix-socket /run/code-server-multi/{socket} http://csm/healthz"
        refused(as_account, "ada", connect, "Permission denied")

with subtest("the host's loopback is closed, except the declared port"):
    assert machine.succeed("curl --fail --silent http://127.0.0.1:5433/") == "unnamed", "the service itself does not respond"
    for host in ("127.0.0.1", address):
        refused(inside, "ada", f"curl --silent --verbose http://{host}:5433/", "Connection refused")
    said = machine.succeed(inside("ada", "curl --fail --silent http://127.0.0.1:5432/"))
    assert said == "named", f"the named service responds with {said}"
    refused(inside, "grace", "curl --silent --verbose http://127.0.0.1:5432/", "Connection refused")

with subtest("the cloud's metadata address is blocked"):
    machine.succeed("ip address add 169.254.169.254/32 dev lo")
    ask = "curl --fail --silent --connect-timeout 5 http://169.254.169.254:5433/"
    assert machine.succeed(ask) == "unnamed", "the service itself does not respond"
    code, said = machine.execute(inside("ada", ask))
    # 28: timeout. The filter drops packets silently; that it is the reason shows when the request succeeds without it.
    assert code == 28, f"curl exits with {code}: {said}"
    machine.succeed("systemctl set-property --runtime code-server-ada.slice IPAddressDeny=")
    machine.wait_until_succeeds(inside("ada", ask))

with subtest("ada can't open grace's workspace"):
    ada = Visitor("ada")
    ada.sign_in()
    page = ada.curl(f"--location --write-out '%{{http_code}}' {NAVIGATE} https://grace.code.test/")
    assert page.endswith("403") and "This workspace belongs to grace" in page, f"ada gets {page}"
