# Autostop under systemd: the launcher senses its workspace, and the daemon decides.
wait_for_front_door()
start("ada", "grace")


def verdict(name):
    return status(name)["activity"]


def kept_by(name, kind):
    machine.wait_until_succeeds(f"csm status {name} --json | grep --fixed-strings '\"kind\":\"{kind}\"'")


def control(name, method, path, body="{}"):
    ask = f"curl --silent --fail --unix-socket /run/csm/control.sock --request {method} --data {shlex.quote(body)} http://csm{path}"
    return machine.succeed(inside(name, ask))


with subtest("the launcher reports what happens in its workspace"):
    machine.wait_until_succeeds("csm status grace --json | grep --fixed-strings '\"next\":{'")
    machine.succeed(inside("grace", "setsid sh -c 'exec xz --stdout /dev/zero > /dev/null' > /dev/null 2>&1 &"))
    kept_by("grace", "program")
    said = machine.succeed("csm why grace")
    assert "xz uses" in said, f"csm why says {said}"
    machine.succeed(inside("grace", "pkill xz"))

with subtest("an agent and a lease are reported through the workspace's own socket, and survive the daemon"):
    control("grace", "PUT", "/v1/leases/deploy", '{"seconds": 3600, "reason": "deploy"}')
    kept_by("grace", "lease")
    pid = machine.succeed(inside("grace", "sleep 1000 > /dev/null 2>&1 & echo $!")).strip()
    control("grace", "PUT", "/v1/agents/one", f'{{"state": "working", "name": "codex", "pid": {pid}}}')
    kept_by("grace", "agent")
    before = processes("grace")
    machine.succeed("systemctl kill --signal=KILL code-server-multi.service")
    machine.wait_until_succeeds("csm status grace --json | grep --fixed-strings '\"kind\":\"lease\"'")
    kept_by("grace", "agent")
    assert processes("grace") == before, "it was restarted"
    machine.succeed(inside("grace", f"kill {pid}"))
    machine.wait_until_fails("csm status grace --json | grep --fixed-strings '\"kind\":\"agent\"'")

with subtest("an account can't report about another owner's workspace"):
    report = '{"workspace":"grace","claims":[{"claim":"lease","id":"x","seconds":60}]}'
    send = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('/run/code-server-multi/activity.sock'); s.sendall(sys.argv[1].encode()+b'\\n'); print(len(s.recv(4096)))"
    for name, said in (("ada", "0"), ("grace", None)):
        got = machine.succeed(as_account(name, f"python3 -c {shlex.quote(send)} {shlex.quote(report)}")).strip()
        assert (got == "0") == (said == "0"), f"{name}'s report got {got} bytes"

with subtest("a workspace that nobody uses is frozen, and only its owner's visit thaws it"):
    frozen = wait_for_state("ada", "frozen")
    assert frozen["reason"].startswith("idle for "), f"it is {frozen}"
    machine.execute(f"curl --silent --max-time 5 {NAVIGATE} https://ada.code.test/")
    assert status("ada")["state"] == "frozen", "an unauthenticated visitor thawed it"
    ada = Visitor("ada")
    ada.sign_in()
    ada.editor()
    assert wait_for_state("ada", "running")["reason"] == "opened by ada"
