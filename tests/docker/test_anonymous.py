"""Volumes whose name Docker made up, and compose."""

import datetime
import shutil

import pytest
from conftest import BASE_IMAGE
from harness.processes import run


def removed(orlop, name):
    found = [v for v in orlop.volumes("--all") if v["name"] == name and v["state"] == "removed"]
    return found[0] if found else None


def retention(volume):
    times = [datetime.datetime.fromisoformat(volume[k].replace("Z", "+00:00")[:19] + "+00:00") for k in ("removed_at", "purge_at")]
    return times[1] - times[0]


def anonymous_of(engine, container):
    (mount,) = engine.inspect("container", container)["Mounts"]
    assert len(mount["Name"]) == 64
    return mount["Name"]


def test_rm_v_removes_the_anonymous_volume_for_a_short_time(engine, orlop):
    box = engine.sh("create", "--volume-driver", orlop.driver, "-v", "/data", BASE_IMAGE, "true")
    name = anonymous_of(engine, box)
    assert orlop.volume(name)["state"] == "active"
    engine.docker("rm", "-v", box)
    gone = removed(orlop, name)
    assert gone and datetime.timedelta(0) < retention(gone) <= datetime.timedelta(hours=1)


def test_run_rm_removes_it_too(engine, orlop):
    before = {v["name"] for v in orlop.volumes("--all")}
    engine.docker("run", "--rm", "--volume-driver", orlop.driver, "-v", "/data", BASE_IMAGE, "touch", "/data/f")
    (new,) = [v for v in orlop.volumes("--all") if v["name"] not in before]
    assert len(new["name"]) == 64 and new["state"] == "removed"


def test_rm_without_v_keeps_it(engine, orlop):
    box = engine.sh("run", "-d", "--volume-driver", orlop.driver, "-v", "/data", BASE_IMAGE, "sh", "-c", "echo x > /data/f")
    engine.docker("wait", box)
    name = anonymous_of(engine, box)
    engine.docker("rm", box)
    assert orlop.cli("cat", f"{name}:/f").stdout == "x\n"


def test_a_named_volume_survives_rm_v(engine, orlop, volume):
    box = engine.sh("create", "-v", f"{volume}:/data", BASE_IMAGE, "true")
    engine.docker("rm", "-v", box)
    assert orlop.volume(volume)["state"] == "active"


def test_a_named_volume_is_kept_seven_days(engine, orlop, volume):
    engine.docker("volume", "rm", volume)
    assert retention(removed(orlop, volume)) == datetime.timedelta(days=7)


COMPOSE = """
version: "3.7"
services:
  writer:
    image: {image}
    command: ["sh", "-c", "echo composed > /data/f"]
    network_mode: none
    volumes: ["store:/data"]
volumes:
  store:
    driver: {driver}
    driver_opts: {{ mode: "0770" }}
"""


@pytest.fixture
def compose(engine, orlop, tmp_path):
    """Runs docker-compose on a project of one service and one volume."""
    command = shutil.which("docker-compose")
    if not command:
        pytest.skip("docker-compose is not installed: run ./dev setup")
    (tmp_path / "docker-compose.yml").write_text(COMPOSE.format(image=BASE_IMAGE, driver=orlop.driver))

    def call(*args, **kw):
        return run(command, "-p", tmp_path.name.replace("_", ""), *args, cwd=tmp_path, env=engine.env(), **kw)

    call.project = tmp_path.name.replace("_", "")
    yield call
    call("down", "-v", check=False)


def test_compose_up_keeps_and_down_v_removes(engine, orlop, compose):
    name = f"{compose.project}_store"
    compose("up", "--exit-code-from", "writer")
    assert orlop.cli("cat", f"{name}:/f").stdout == "composed\n"
    assert orlop.volume(name)["options"]["mode"] == 0o770
    compose("down")
    assert orlop.volume(name)["state"] == "active"
    compose("up", "--exit-code-from", "writer")
    compose("down", "-v")
    assert removed(orlop, name)
    assert name not in engine.sh("volume", "ls", "-q").split()
