# Who wants more than their limits: their own workspace feels it, and nobody else's.
wait_for_front_door()
start("ada", "grace")
grace = Visitor("grace")
grace.sign_in()
figures = "/sys/fs/cgroup" + machine.succeed("systemctl show --property=ControlGroup --value code-server-ada.slice").strip()


def events(file, event):
    counts = dict(line.split() for line in machine.succeed(f"cat {figures}/{file}").splitlines())
    return int(counts[event])


with subtest("the kernel has the figures, and the container is below them"):
    for file, expected in {
        "memory.max": str(1 << 30),
        "memory.high": str(1 << 30),
        "memory.swap.max": "0",
        "cpu.max": "120000 100000",
        "pids.max": "512",
    }.items():
        actual = machine.succeed(f"cat {figures}/{file}").strip()
        assert actual == expected, f"{file} is {actual}, not {expected}"
    first = processes("ada")[-1]
    where = machine.succeed(f"cat /proc/{first}/cgroup").strip()
    assert "/code-server-ada.slice/" in where, f"the container is in {where}"

with subtest("what takes too much memory ends alone"):
    before = {name: processes(name) for name in ("ada", "grace")}
    status, said = machine.execute(inside("ada", "tail /dev/zero"))
    # 137: SIGKILL.
    assert status == 137, f"it ends with {status}: {said}"
    assert events("memory.events", "oom_kill") > 0, "it was not the kernel's doing"
    assert {name: processes(name) for name in before} == before, "a workspace went down with it"
    grace.editor()
    Visitor("ada").sign_in()

with subtest("what takes too many processes gets no more, and others do not notice"):
    crowd = "for _ in $(seq 600); do sleep infinity >/dev/null 2>&1 & done"
    status, said = machine.execute(inside("ada", f"{{ {crowd}; }} 2>&1"))
    # The words of bash, and those of dash.
    reasons = ("Resource temporarily unavailable", "Cannot fork")
    assert status != 0 and any(reason in said for reason in reasons), f"it ends with {status}: {said}"
    assert events("pids.events", "max") > 0, "it was not the kernel's doing"
    grace.editor()
