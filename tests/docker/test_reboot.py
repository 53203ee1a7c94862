"""The host goes down without a goodbye: everything is killed at once, every mount gone, then all starts again."""

from conftest import BASE_IMAGE
from harness.processes import wait_until


def power_cut(engine, orlop):
    # Docker first: a container must not live on without its volume.
    engine.power_off()
    orlop.power_off()


def test_what_was_synced_is_there_after_a_reboot(engine, orlop, volume, app_image):
    box = engine.sh("run", "-d", "--init", "-v", f"{volume}:/data", app_image, "python", "app.py", "count", "1000")
    wait_until("it counts", 30, lambda: int(engine.exec(box, "wc -l < /data/count.txt 2>/dev/null || echo 0")) > 50)
    acknowledged = int(engine.exec(box, "wc -l < /data/count.txt"))
    power_cut(engine, orlop)

    orlop.up()
    engine.start()
    text = engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "cat", "/data/count.txt")
    numbers = [int(x) for x in text.split()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= acknowledged
    orlop.cli("audit", "verify")


def test_a_container_with_a_restart_policy_comes_back_with_its_data(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "--restart", "always", "-v", f"{volume}:/data", BASE_IMAGE, "sleep", "1000")
    engine.exec(box, "mkdir /data/d && echo kept > /data/d/f && chmod 640 /data/d/f && chown 5:6 /data/d/f && ln -s f /data/d/l && sync")
    before = engine.exec(box, "cd /data && find . -printf '%p %y %m %U %G %s %T@ %l\\n' | sort")
    power_cut(engine, orlop)
    orlop.up()
    engine.start()
    wait_until("the container is back", 60, lambda: engine.inspect("container", box)["State"]["Running"])
    assert engine.exec(box, "cd /data && find . -printf '%p %y %m %U %G %s %T@ %l\\n' | sort") == before
    engine.docker("rm", "-f", box)
    wait_until("the attachments from before are dropped", 200, lambda: orlop.volume(volume)["attachments"] == [], every=1)


def test_volumes_options_protection_and_trash_survive(engine, orlop, name):
    engine.docker("volume", "create", "-d", orlop.driver, "-o", "size=64M", name)
    engine.docker("volume", "create", "-d", orlop.driver, f"{name}-gone")
    orlop.cli("volume", "protect", name)
    engine.docker("volume", "rm", f"{name}-gone")
    before = sorted((v["id"], v["name"], v["state"], v["protected"], str(v["options"])) for v in orlop.volumes("--all"))
    power_cut(engine, orlop)
    orlop.up()
    engine.start()
    after = sorted((v["id"], v["name"], v["state"], v["protected"], str(v["options"])) for v in orlop.volumes("--all"))
    assert after == before
    orlop.cli("volume", "protect", name, "--off")


def test_a_dead_mount_left_by_the_kill_of_everything_does_not_stand_in_the_way(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "echo kept > /data/f && sync")
    engine.docker("kill", box)
    # Every process of Orlop dies, but the mount stays behind: 'Transport endpoint is not connected'.
    import os
    import signal

    box = sleeper("-v", f"{volume}:/data")
    for pid in orlop.pids():
        os.kill(pid, signal.SIGKILL)
    wait_until("all of Orlop is gone", 20, lambda: not orlop.pids())
    orlop.up()
    engine.docker("rm", "-f", box)
    assert engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "cat", "/data/f") == "kept"
