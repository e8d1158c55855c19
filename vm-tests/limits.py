# Who wants more than their limits: their own workspace feels it, and nobody else's.
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


# An emulated processor is slow by another factor at every try; what counts is that ada's hogs do not keep grace waiting.
usual = max(seconds(grace) for _ in range(3))


def grace_is_answered():
    took = seconds(grace)
    assert took < 4 * usual + 5, f"grace waits for {took:.1f} s, usually {usual:.1f} s"


with subtest("the kernel has the figures, and the container is below them"):
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

# It wants its memory in one system call. What needs its program's pages meanwhile reads them from the disk again and again near the
# limit, for minutes, before the kernel ends something.
HOG = "dd if=/dev/zero of=/dev/null bs=2G count=1"

with subtest("what takes too much memory ends alone, and the page says so"):
    before = {name: processes(name) for name in ("ada", "grace")}
    for time_of_many in (1, 2, 3):
        ended, said = machine.execute(inside("ada", HOG))
        # SIGKILL.
        assert ended == 137, f"it ends with {ended}: {said}"
        assert events(payload, "memory.events", "oom_kill") == time_of_many, "it was not the kernel's doing"
    assert events(slice, "memory.events", "max") > 0, "it never came to its limit"
    assert {name: processes(name) for name in before} == before, "a workspace went down with it"
    told = "out of memory: the kernel killed 3 processes"
    machine.wait_until_succeeds(f"csm status ada --json | grep '{told}'")
    dashboard = ada.curl(f"{NAVIGATE} --location https://code.test/")
    assert told in dashboard, "the dashboard does not say so"
    grace_is_answered()
    ada.editor()

with subtest("a CPU hog gets its share, and others do not notice"):
    machine.succeed(inside("ada", "for _ in 1 2 3 4; do (while :; do :; done) >/dev/null 2>&1 & done"))
    began, used = time.monotonic(), events(payload, "cpu.stat", "usage_usec")
    throttled = events(slice, "cpu.stat", "nr_throttled")
    for _ in range(3):
        grace_is_answered()
    took = (time.monotonic() - began) * 1e6
    share = (events(payload, "cpu.stat", "usage_usec") - used) / took
    # An emulator's clock may differ from this one's a little.
    assert 0.5 < share < 1.4, f"it has {share:.2f} CPUs of 1.2"
    assert events(slice, "cpu.stat", "nr_throttled") > throttled, "it was not the kernel's doing"
    machine.succeed(inside("ada", "pkill --full '[w]hile :'"))

with subtest("what takes too many processes gets no more, and others do not notice"):
    crowd = "for _ in $(seq 600); do sleep infinity >/dev/null 2>&1 & done"
    ended, said = machine.execute(inside("ada", f"{{ {crowd}; }} 2>&1"))
    # The words of bash, and those of dash.
    reasons = ("Resource temporarily unavailable", "Cannot fork")
    assert ended != 0 and any(reason in said for reason in reasons), f"it ends with {ended}: {said}"
    assert events(slice, "pids.events", "max") > 0, "it was not the kernel's doing"
    grace_is_answered()

with subtest("a workspace whose first process runs out of memory has that as its reason"):
    # The first process inside, which the kernel takes last, made the first to take.
    machine.succeed("csm restart ada")
    machine.succeed(f"echo 1000 > /proc/{processes('ada')[-1]}/oom_score_adj")
    machine.execute(inside("ada", HOG))
    failed = wait_for_state("ada", "failed")
    assert "out of memory: killed at the 1G limit" in failed["reason"], f"it is {failed}"
    code = machine.succeed(f"systemctl show --property=ExecMainStatus --value {unit('ada')}").strip()
    assert code == "137", f"its launcher ended with {code}"
    grace_is_answered()
    ada.wake()
