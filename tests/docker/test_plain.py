"""Plain volumes under containers: a folder of the host, made or adopted, with Docker between it and the program."""

import pytest
from conftest import BASE_IMAGE


@pytest.fixture
def store(orlop, name, base):
    """A store of plain volumes on a folder of its own."""
    folder = base / f"{name}-plain"
    folder.mkdir()
    orlop.cli("store", "add", f"{name}-store", f"dir://{folder}")
    yield f"{name}-store", folder
    for volume in orlop.volumes("--all"):
        if volume["store"] == f"{name}-store":
            orlop.cli("volume", "remove", "--now", volume["id"], check=False)
    orlop.cli("store", "remove", f"{name}-store", check=False)


def create(engine, orlop, store, name, *options):
    args = [x for option in (f"store={store}", *options) for x in ("-o", option)]
    engine.docker("volume", "create", "-d", orlop.driver, *args, name)


def test_containers_share_the_folder_and_docker_rm_keeps_it_restorable(engine, orlop, store, name):
    store, folder = store
    create(engine, orlop, store, name, "mode=1777")
    box = engine.sh("run", "-d", "--init", "-v", f"{name}:/data", BASE_IMAGE, "sleep", "1000")
    engine.exec(box, "echo hello > /data/x")
    assert (folder / name / "x").read_text() == "hello\n"
    shown = engine.inspect("volume", name)
    assert shown["Mountpoint"] == str(folder / name) and shown["Status"]["Kind"] == "plain"
    assert "fuse" not in engine.exec(box, "grep ' /data ' /proc/mounts")
    # While a container uses it, it is known to be in use, also by a daemon that was just started.
    refused = orlop.cli("volume", "remove", name, check=False)
    assert refused.returncode == 5
    engine.docker("rm", "-f", box)
    engine.docker("volume", "rm", name)
    assert not (folder / name).exists()
    orlop.cli("volume", "restore", name)
    out = engine.sh("run", "--rm", "-v", f"{name}:/data:ro", BASE_IMAGE, "cat", "/data/x")
    assert out == "hello"


def test_an_adopted_folder_outlives_its_volume(engine, orlop, store, name):
    store, folder = store
    (folder / name).mkdir()
    (folder / name / "x").write_text("precious")
    create(engine, orlop, store, name)
    # A folder with something in it gets nothing of the image.
    out = engine.sh("run", "--rm", "-v", f"{name}:/usr/local/lib", "--entrypoint", "/bin/ls", BASE_IMAGE, "/usr/local/lib")
    assert out.split() == ["x"]
    engine.docker("volume", "rm", name)
    assert (folder / name / "x").read_text() == "precious"
    assert name not in [v["name"] for v in orlop.volumes()]
