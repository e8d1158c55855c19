# A workspace that exceeds its limits is limited itself; no other workspace is affected.
wait_for_front_door()
start("ada", "grace")
ada, grace = Visitor("ada"), Visitor("grace")
ada.sign_in()
grace.sign_in()
slice = "/sys/fs/cgroup" + machine.succeed("systemctl show --property=ControlGroup --value code-server-ada.slice").strip()
# The container's own cgroup.
payload = machine.succeed(f"echo /sys/fs/cgroup$(cut -d : -f 3 /proc/{processes('ada')[-1]}/cgroup)").strip()


def events(directory, file, event):
    counts = dict(line.split() for line in machine.succeed(f"cat {directory}/{file}").splitlines())
    return int(counts[event])


def seconds(visitor):
    began = time.monotonic()
    visitor.editor()
    return time.monotonic() - began


# The speed of an emulated processor varies from run to run, so grace's response times are compared with her own usual ones.
usual = max(seconds(grace) for _ in range(3))


def assert_grace_is_served():
    took = seconds(grace)
    assert took < 4 * usual + 5, f"grace's page took {took:.1f} s, usually {usual:.1f} s"


with subtest("the kernel has the declared limits, and the container is in the cgroup that they apply to"):
    for file, expected in {
        "memory.max": str(1 << 30),
        "memory.high": str(1 << 30),
        "memory.swap.max": "0",
        "cpu.max": "120000 100000",
        "pids.max": "512",
    }.items():
        actual = machine.succeed(f"cat {slice}/{file}").strip()
        assert actual == expected, f"{file} is {actual}, not {expected}"
    assert payload.startswith(f"{slice}/{unit('ada')}/libpod-payload-"), f"the container is in {payload}"

# This allocates its memory in one system call. A program that needs its own pages while it allocates would, near the limit, read them
# from the disk again and again, for minutes, before the kernel kills a process.
HOG = "dd if=/dev/zero of=/dev/null bs=2G count=1"

with subtest("a process that takes too much memory is killed alone, and the dashboard shows it"):
    before = {name: processes(name) for name in ("ada", "grace")}
    for count in (1, 2, 3):
        code, said = machine.execute(inside("ada", HOG))
        # SIGKILL.
        assert code == 137, f"it exits with {code}: {said}"
        assert events(payload, "memory.events", "oom_kill") == count, "the kernel did not kill it"
    assert events(slice, "memory.events", "max") > 0, "it never reached its limit"
    assert {name: processes(name) for name in before} == before, "a workspace was restarted"
    warning = "out of memory: the kernel killed 3 processes"
    machine.wait_until_succeeds(f"csm status ada --json | grep '{warning}'")
    dashboard = ada.curl(f"{NAVIGATE} --location https://code.test/")
    assert warning in dashboard, "the dashboard does not show the warning"
    assert_grace_is_served()
    ada.editor()

with subtest("a CPU hog gets only its share, and others are not slowed"):
    machine.succeed(inside("ada", "for _ in 1 2 3 4; do (while :; do :; done) >/dev/null 2>&1 & done"))
    began, used = time.monotonic(), events(payload, "cpu.stat", "usage_usec")
    throttled = events(slice, "cpu.stat", "nr_throttled")
    for _ in range(3):
        assert_grace_is_served()
    took = (time.monotonic() - began) * 1e6
    share = (events(payload, "cpu.stat", "usage_usec") - used) / took
    # An emulator's clock may differ from this one's a little.
    assert 0.5 < share < 1.4, f"it has {share:.2f} CPUs of 1.2"
    assert events(slice, "cpu.stat", "nr_throttled") > throttled, "the kernel did not throttle it"
    machine.succeed(inside("ada", "pkill --full '[w]hile :'"))

with subtest("a workspace at its process limit gets no more, and others are not affected"):
    crowd = "for _ in $(seq 600); do sleep infinity >/dev/null 2>&1 & done"
    code, said = machine.execute(inside("ada", f"{{ {crowd}; }} 2>&1"))
    # The messages of bash and of dash.
    reasons = ("Resource temporarily unavailable", "Cannot fork")
    assert code != 0 and any(reason in said for reason in reasons), f"it exits with {code}: {said}"
    assert events(slice, "pids.events", "max") > 0, "the kernel did not refuse a process"
    assert_grace_is_served()

with subtest("a workspace whose first process is killed at the memory limit shows that as its reason"):
    # The kernel would kill the first process last; this makes it the first to be killed.
    machine.succeed("csm restart ada")
    machine.succeed(f"echo 1000 > /proc/{processes('ada')[-1]}/oom_score_adj")
    machine.execute(inside("ada", HOG))
    failed = wait_for_state("ada", "failed")
    assert "out of memory: killed at the 1G limit" in failed["reason"], f"it is {failed}"
    code = machine.succeed(f"systemctl show --property=ExecMainStatus --value {unit('ada')}").strip()
    assert code == "137", f"its launcher exited with {code}"
    assert_grace_is_served()
    ada.wake()
