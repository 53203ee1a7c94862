"""Containers and dockerd come and go, politely or not; the data stays and the mounts are counted right."""

from conftest import BASE_IMAGE
from harness.processes import wait_until

COUNTER = "i=0; while true; do i=$((i+1)); echo $i >> /data/count; sync /data/count; sleep 0.05; done"


def attachments(orlop, volume):
    return orlop.volume(volume)["attachments"]


def counted(engine, box):
    """The counter's lines; they must be 1, 2, 3, ... without a gap since the last restart of the loop."""
    return [int(x) for x in engine.exec(box, "cat /data/count").split()]


def test_docker_restart_keeps_the_data_and_one_attachment(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "echo before > /data/f")
    engine.docker("restart", "-t", "1", box)
    assert engine.exec(box, "cat /data/f") == "before"
    assert len(attachments(orlop, volume)) == 1


def test_stop_lets_go_and_start_takes_again(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "echo before > /data/f")
    engine.docker("stop", "-t", "1", box)
    assert attachments(orlop, volume) == []
    engine.docker("start", box)
    assert engine.exec(box, "cat /data/f") == "before"
    engine.docker("kill", box)
    wait_until("the killed container let go", 15, lambda: attachments(orlop, volume) == [])


def test_a_paused_container_keeps_its_volume(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.docker("pause", box)
    assert len(attachments(orlop, volume)) == 1
    engine.docker("unpause", box)
    engine.exec(box, "echo on > /data/f")


def test_a_clean_restart_of_dockerd(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "--restart", "always", "-v", f"{volume}:/data", BASE_IMAGE, "sleep", "1000")
    engine.exec(box, "echo before > /data/f")
    engine.stop()
    assert attachments(orlop, volume) == []
    engine.start()
    wait_until("the container is back", 30, lambda: engine.inspect("container", box)["State"]["Running"])
    assert engine.exec(box, "cat /data/f") == "before"
    assert len(attachments(orlop, volume)) == 1


def test_kill_of_dockerd_with_live_restore_is_not_noticed(engine, orlop, volume):
    engine.restart(live_restore=True)
    box = engine.sh("run", "-d", "--init", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", COUNTER)
    engine.kill()
    engine.start(live_restore=True)
    assert engine.inspect("container", box)["State"]["Running"]
    before = len(counted(engine, box))
    wait_until("it goes on counting", 15, lambda: len(counted(engine, box)) > before + 3)
    numbers = counted(engine, box)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(attachments(orlop, volume)) == 1
    # The Unmount comes with the id from before the crash.
    engine.docker("rm", "-f", box)
    wait_until("its attachment is gone", 15, lambda: attachments(orlop, volume) == [])


def test_kill_of_dockerd_without_live_restore_loses_the_unmount_and_it_is_reconciled(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "--restart", "always", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", COUNTER)
    wait_until("it counts", 15, lambda: engine.docker("exec", box, "test", "-s", "/data/count", check=False).returncode == 0)
    old = attachments(orlop, volume)
    engine.kill()
    engine.start()
    wait_until("the container is back", 60, lambda: engine.inspect("container", box)["State"]["Running"])
    numbers = counted(engine, box)
    assert numbers[0] == 1 and len(numbers) >= 1
    engine.docker("rm", "-f", box)
    # Nothing says that the old mount is over; only looking at the real mounts can tell.
    wait_until(f"the lost attachment {old} is dropped", 200, lambda: attachments(orlop, volume) == [], every=1)
    mountpoint = engine.inspect("volume", volume)["Mountpoint"]
    assert mountpoint not in open("/proc/self/mountinfo", encoding="utf-8").read()
    engine.docker("volume", "rm", volume)


def test_a_container_that_is_still_there_keeps_its_attachment_through_the_reconciliation(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "--restart", "always", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", COUNTER)
    for _ in range(2):
        engine.kill()
        engine.start()
    wait_until("the container is back", 60, lambda: engine.inspect("container", box)["State"]["Running"])
    before = len(counted(engine, box))
    wait_until("it counts on", 15, lambda: len(counted(engine, box)) > before)
    assert len(attachments(orlop, volume)) >= 1
    engine.docker("exec", box, "sh", "-c", "echo alive > /data/alive")
