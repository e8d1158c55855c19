# A wildcard certificate by DNS-01, from a certificate authority on the machine itself, and its renewal.
import json

wait_for_front_door()
machine.wait_for_unit("pebble.service")
machine.wait_for_open_port(14000)
machine.wait_for_unit("pebble-challtestsrv.service")
machine.wait_for_open_port(8055)
# The authority makes itself a new root at each start.
machine.succeed("curl --fail --silent https://acme.code.test:15000/roots/0 > /run/test/root.pem")

# What orders a certificate is called otherwise in other releases of NixOS; it is what the timer starts.
timers = json.loads(machine.succeed("systemctl list-timers --all --output=json 'acme-*code.test.timer'"))
order = timers[0]["activates"]


def served(host):
    """A command line that prints the certificate that nginx shows for this host, if it is the authority's and for that name."""
    ask = f"curl --fail --silent --show-error --cacert /run/test/root.pem --output /dev/null --write-out '%{{certs}}' {NAVIGATE}"
    return f"{ask} https://{host}/"


def restarted():
    return main_pid("nginx"), main_pid("code-server-multi"), processes("ada")


start("ada")

with subtest("the certificate is for the dashboard and for every workspace"):
    machine.succeed(f"systemctl start {order}")
    for host in ("code.test", "ada.code.test", "3000--ada.code.test"):
        machine.wait_until_succeeds(served(host))

with subtest("a renewed one is served without a restart"):
    ada = Visitor("ada", "/run/test/root.pem")
    ada.sign_in()
    holder = ada.open_websocket()
    before = restarted()
    machine.succeed(f"{served('ada.code.test')} > /run/test/before")
    machine.succeed(f"systemctl start {order}")
    # nginx reloads on its own time.
    machine.wait_until_succeeds(f"{served('ada.code.test')} > /run/test/now && ! cmp /run/test/before /run/test/now")
    assert restarted() == before, "the renewal restarted nginx, the daemon or the workspace"
    # By the worker of nginx that shuts down when its last connection has ended.
    assert_open(holder)
