# Obtains a wildcard certificate by DNS-01 from a certificate authority on the machine itself, and renews it.
import json

wait_for_front_door()
machine.wait_for_unit("pebble.service")
machine.wait_for_open_port(14000)
machine.wait_for_unit("pebble-challtestsrv.service")
machine.wait_for_open_port(8055)
# The authority creates a new root certificate at each start.
machine.succeed("curl --fail --silent https://acme.code.test:15000/roots/0 > /run/test/root.pem")

# The unit that orders a certificate has different names in different releases of NixOS: it is the one that the timer starts.
timers = json.loads(machine.succeed("systemctl list-timers --all --output=json 'acme-*code.test.timer'"))
order = timers[0]["activates"]


def served(host):
    """A command line that prints the certificate that nginx serves for this host. It fails unless the authority issued it for that name."""
    ask = f"curl --fail --silent --show-error --cacert /run/test/root.pem --output /dev/null --write-out '%{{certs}}' {NAVIGATE}"
    return f"{ask} https://{host}/"


def restart_marks():
    return main_pid("nginx"), main_pid("code-server-multi"), processes("ada")


start("ada")

with subtest("the certificate is valid for the dashboard and for every workspace"):
    machine.succeed(f"systemctl start {order}")
    for host in ("code.test", "ada.code.test", "3000--ada.code.test"):
        machine.wait_until_succeeds(served(host))

with subtest("a renewed certificate is served without a restart"):
    ada = Visitor("ada", "/run/test/root.pem")
    ada.sign_in()
    holder = ada.open_websocket()
    before = restart_marks()
    machine.succeed(f"{served('ada.code.test')} > /run/test/before")
    machine.succeed(f"systemctl start {order}")
    # nginx reloads asynchronously.
    machine.wait_until_succeeds(f"{served('ada.code.test')} > /run/test/now && ! cmp /run/test/before /run/test/now")
    assert restart_marks() == before, "the renewal restarted nginx, the daemon or the workspace"
    # The old nginx worker serves it, until its last connection is closed.
    assert_open(holder)
