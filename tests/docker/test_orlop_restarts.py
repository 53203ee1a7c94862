"""Orlop's own processes come and go while containers run."""

from conftest import BASE_IMAGE
from harness.processes import alive, wait_until

COUNTER = "i=0; while true; do i=$((i+1)); echo $i >> /data/count || exit 9; sync /data/count || exit 8; sleep 0.02; done"


def count(engine, box):
    numbers = [int(x) for x in engine.exec(box, "cat /data/count").split()]
    assert numbers == list(range(1, len(numbers) + 1)), "no line is lost, doubled or torn"
    return len(numbers)


def goes_on(engine, box):
    before = count(engine, box)
    wait_until("the container goes on writing", 20, lambda: count(engine, box) > before + 5, every=0.3)


def test_the_daemon_is_killed_while_a_container_writes(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", COUNTER)
    wait_until("it counts", 15, lambda: engine.docker("exec", box, "test", "-s", "/data/count", check=False).returncode == 0)
    for _ in range(3):
        killed = orlop.kill_daemon()
        goes_on(engine, box)
        orlop.up()
        assert orlop.daemon_pid != killed
        goes_on(engine, box)
    assert engine.inspect("container", box)["State"]["Running"]
    assert len(orlop.volume(volume)["attachments"]) == 1
    engine.docker("rm", "-f", box)
    wait_until("the attachment is gone", 15, lambda: orlop.volume(volume)["attachments"] == [])
    orlop.cli("audit", "verify")


def test_containers_stop_and_start_after_the_daemon_came_back(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "echo x > /data/f")
    orlop.kill_daemon()
    orlop.up()
    engine.docker("restart", "-t", "1", box)
    assert engine.exec(box, "cat /data/f") == "x"
    other = sleeper("-v", f"{volume}:/data")
    assert engine.exec(other, "cat /data/f") == "x"


def test_down_refuses_while_a_container_uses_a_volume_and_names_it(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    refused = orlop.down(check=False)
    assert refused.returncode != 0 and volume in refused.stderr
    engine.exec(box, "echo still > /data/f")
    assert orlop.daemon_pid


def test_down_keeping_mounts_and_up_again_is_not_noticed(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", COUNTER)
    wait_until("it counts", 15, lambda: engine.docker("exec", box, "test", "-s", "/data/count", check=False).returncode == 0)
    orlop.down("--keep-mounts")
    assert orlop.daemon_pid is None
    goes_on(engine, box)
    orlop.up()
    goes_on(engine, box)


def test_a_clean_down_and_up_keeps_every_volume(engine, orlop, volume):
    engine.docker("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", "echo kept > /data/f")
    before = orlop.pids()
    orlop.down()
    wait_until("no process is left", 20, lambda: not any(alive(p) for p in before))
    assert orlop.pids() == []
    assert str(orlop.root) not in open("/proc/self/mountinfo", encoding="utf-8").read()
    orlop.up()
    assert engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "cat", "/data/f") == "kept"


def test_the_socket_file_stays_after_down_so_that_docker_makes_no_twin(engine, orlop, volume):
    orlop.down()
    try:
        assert orlop.socket.exists()
    finally:
        orlop.up()


def test_a_daemon_killed_in_the_middle_of_changes_leaves_no_half_volume(engine, orlop, name):
    import threading

    def create():
        for i in range(30):
            engine.docker("volume", "create", "-d", orlop.driver, f"{name}-{i}", check=False, timeout=90)

    worker = threading.Thread(target=create)
    worker.start()
    wait_until("some volumes exist", 30, lambda: sum(v["name"].startswith(name) for v in orlop.volumes()) >= 5)
    orlop.kill_daemon()
    orlop.up()
    worker.join()
    names = sorted(v["name"] for v in orlop.volumes() if v["name"].startswith(name))
    assert len(names) >= 29, "dockerd repeats a call that found nobody"
    for n in names[:8]:
        assert engine.sh("run", "--rm", "-v", f"{n}:/data", BASE_IMAGE, "sh", "-c", "echo x > /data/f; cat /data/f") == "x"
    orlop.cli("audit", "verify")
