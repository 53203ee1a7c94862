"""What a first mount finds: image content, owner and mode, compared with Docker's own driver."""

import pytest
from conftest import BASE_IMAGE

LISTING = "cd /data && find . -printf '%p %y %m %U %G %n %l\\n' | sort"

DOCKERFILE = f"""
FROM {BASE_IMAGE}
RUN mkdir -p /data/sub/deep && echo one > /data/one && echo two > /data/sub/two \\
 && ln -s ../one /data/sub/link && ln /data/one /data/hard && mkfifo /data/pipe \\
 && echo secret > /data/sub/deep/secret && chmod 0600 /data/sub/deep/secret \\
 && chmod 4755 /data/sub/two && chmod 1770 /data/sub \\
 && chown -R 1000:2000 /data && chown 33:44 /data/sub/deep/secret && chmod 2750 /data
"""


@pytest.fixture(scope="module")
def full_image(session_engine, tmp_path_factory):
    """An image with all kinds of content where the volume goes."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    session_engine.docker("build", "-t", "orlop-test/full", folder, timeout=300)
    return "orlop-test/full"


@pytest.fixture(scope="module")
def empty_image(session_engine, tmp_path_factory):
    """An image whose folder has an owner and a mode, but nothing in it."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nRUN mkdir /data && chown 70:71 /data && chmod 0700 /data\n")
    session_engine.docker("build", "-t", "orlop-test/empty", folder, timeout=300)
    return "orlop-test/empty"


def test_the_first_mount_copies_the_images_content_as_the_local_driver_does(engine, orlop, full_image, name):
    engine.docker("volume", "create", "-d", orlop.driver, f"{name}-ours")
    engine.docker("volume", "create", f"{name}-local")
    ours = engine.sh("run", "--rm", "-v", f"{name}-ours:/data", full_image, "sh", "-c", LISTING)
    local = engine.sh("run", "--rm", "-v", f"{name}-local:/data", full_image, "sh", "-c", LISTING)
    assert ours == local
    assert "./sub/deep/secret f 600 33 44" in ours


def test_a_folder_without_content_gives_its_owner_and_mode(engine, orlop, empty_image, name):
    engine.docker("volume", "create", "-d", orlop.driver, f"{name}-ours")
    engine.docker("volume", "create", f"{name}-local")
    listings = [engine.sh("run", "--rm", "-v", f"{n}:/data", empty_image, "stat", "-c", "%u %g %a", "/data") for n in (f"{name}-ours", f"{name}-local")]
    assert listings == ["70 71 700"] * 2


def test_nocopy_leaves_the_volume_empty(engine, orlop, full_image, volume):
    assert engine.sh("run", "--rm", "-v", f"{volume}:/data:nocopy", full_image, "ls", "-A", "/data") == ""
    mounted = engine.sh("run", "--rm", "--mount", f"type=volume,source={volume},target=/data,volume-nocopy", full_image, "ls", "-A", "/data")
    assert mounted == ""


def test_a_volume_that_has_content_is_not_copied_into(engine, orlop, full_image, volume):
    engine.docker("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "touch", "/data/mine")
    assert engine.sh("run", "--rm", "-v", f"{volume}:/data", full_image, "ls", "-A", "/data") == "mine"


def test_the_copy_happens_once(engine, orlop, full_image, volume):
    engine.docker("run", "--rm", "-v", f"{volume}:/data", full_image, "rm", "/data/one")
    assert "one" not in engine.sh("run", "--rm", "-v", f"{volume}:/data", full_image, "ls", "-A", "/data").split()


def test_a_read_only_first_mount_is_copied_into_too(engine, orlop, full_image, volume):
    out = engine.sh("run", "--rm", "-v", f"{volume}:/data:ro", full_image, "cat", "/data/one")
    assert out == "one"


def test_a_fresh_root_is_as_the_local_drivers(engine, orlop, name):
    engine.docker("volume", "create", "-d", orlop.driver, f"{name}-ours")
    engine.docker("volume", "create", f"{name}-local")
    stat = ("stat", "-c", "%u %g %a %F", "/fresh")
    ours = engine.sh("run", "--rm", "-v", f"{name}-ours:/fresh", BASE_IMAGE, *stat)
    assert ours == engine.sh("run", "--rm", "-v", f"{name}-local:/fresh", BASE_IMAGE, *stat) == "0 0 755 directory"
    listed = engine.sh("run", "--rm", "-v", f"{name}-ours:/fresh", BASE_IMAGE, "ls", "-A", "/fresh")
    assert listed == "", "nothing like lost+found"
