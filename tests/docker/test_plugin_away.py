"""Orlop is not there when Docker wants it: what Docker does then, and what `orlop doctor` makes of it."""

import time

import pytest
from conftest import BASE_IMAGE
from harness.processes import wait_until


def doctor(orlop, engine):
    return orlop.cli("doctor", check=False, env=engine.env())


def test_while_the_daemon_is_dead_run_fails_and_creates_no_twin(engine, orlop, volume):
    orlop.kill_daemon()
    assert orlop.socket.exists()
    began = time.monotonic()
    refused = engine.docker("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "true", check=False, timeout=90)
    assert refused.returncode != 0
    assert time.monotonic() - began < 60
    assert f"local {volume}" not in engine.sh("volume", "ls", "--format", "{{.Driver}} {{.Name}}").splitlines()
    orlop.up()
    engine.docker("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "true")


def test_a_stop_while_the_daemon_is_dead_loses_its_unmount_and_it_is_reconciled(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "echo kept > /data/f")
    orlop.kill_daemon()
    engine.docker("stop", "-t", "1", box, timeout=120)
    orlop.up()
    wait_until("the lost attachment is dropped", 200, lambda: orlop.volume(volume)["attachments"] == [], every=1)
    engine.docker("start", box)
    assert engine.exec(box, "cat /data/f") == "kept"


def test_a_silent_local_twin_is_found_by_doctor_and_named(engine, orlop, name):
    """With the socket file gone too, `docker run -v name:` makes a local volume of that name without a word."""
    orlop.cli("volume", "create", name)
    orlop.kill_daemon()
    orlop.socket.unlink()
    engine.stop()
    engine.start()
    engine.docker("run", "--rm", "-v", f"{name}:/data", BASE_IMAGE, "sh", "-c", "echo astray > /data/f")
    orlop.up()
    found = doctor(orlop, engine)
    assert found.returncode != 0
    assert name in found.stdout and "local" in found.stdout, found.stdout
    assert f"docker volume rm {name}" in found.stdout, "the remedy is a command"
    # Remedied, doctor is content.
    engine.docker("volume", "rm", name)
    assert name not in doctor(orlop, engine).stdout


def test_doctor_is_content_when_all_is_well(engine, orlop, volume, sleeper):
    sleeper("-v", f"{volume}:/data")
    found = doctor(orlop, engine)
    assert found.returncode == 0, found.stdout + found.stderr


def test_dockerd_that_starts_without_orlop_is_slow_but_recovers(engine, orlop, volume):
    """61 seconds were seen; the units order Orlop before dockerd so that it does not happen."""
    box = engine.sh("run", "-d", "--init", "--restart", "always", "-v", f"{volume}:/data", BASE_IMAGE, "sleep", "1000")
    engine.exec(box, "echo kept > /data/f")
    engine.stop()
    orlop.kill_daemon()
    engine.start(wait=180)
    orlop.up()
    # dockerd gave up on the container and does not try again by itself.
    engine.docker("start", box, timeout=120)
    assert engine.exec(box, "cat /data/f") == "kept"


def test_orlop_up_before_dockerd_makes_its_start_quick(engine, orlop, volume):
    box = engine.sh("run", "-d", "--init", "--restart", "always", "-v", f"{volume}:/data", BASE_IMAGE, "sleep", "1000")
    engine.stop()
    orlop.kill_daemon()
    orlop.up()
    began = time.monotonic()
    engine.start()
    assert time.monotonic() - began < 20
    wait_until("the container is back", 30, lambda: engine.inspect("container", box)["State"]["Running"])


def test_a_stale_socket_file_is_replaced(engine, orlop, volume):
    orlop.kill_daemon()
    before = orlop.socket.stat().st_ino
    orlop.up()
    assert orlop.socket.stat().st_ino != before
    assert volume in engine.sh("volume", "ls", "-q").split()


def test_a_second_daemon_does_not_take_the_plugins_name(engine, orlop, base, binary, name):
    from harness.orlop import Orlop

    second = Orlop(binary, base / name)
    mine, second.driver = second.driver, orlop.driver
    try:
        said = second.up()
        assert str(orlop.root) in said.stdout + said.stderr, "the warning names the other root"
        orlop.cli("volume", "create", name)
        assert name in engine.sh("volume", "ls", "-q").split(), "Docker still talks to the first"
        second.down()
        assert orlop.socket.exists()
        assert name in engine.sh("volume", "ls", "-q").split()
    finally:
        second.driver = mine
        second.destroy()


@pytest.mark.parametrize("command", ["list", "inspect"])
def test_orlops_own_commands_say_that_the_daemon_is_down_and_how_to_start_it(orlop, command):
    orlop.kill_daemon()
    refused = orlop.cli("volume", *([command] if command == "list" else [command, "any"]), check=False)
    assert refused.returncode != 0 and "orlop up" in refused.stderr
