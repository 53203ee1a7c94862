"""Fixtures of the whole-product tests: one dockerd and one Orlop for all of them.

A test may kill, stop and restart both; the next test finds them running again. Names of volumes and
containers are unique per test, and what a test leaves behind is removed after it.
"""

import os
import pathlib
import secrets
import shutil
import subprocess
import tempfile

import pytest

from harness.engine import Engine, without_dead_plugins
from harness.orlop import Orlop

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
BASE_IMAGE = "python:3.8-slim-buster"
SERVERS_IMAGE = "orlop-test/servers"


def missing():
    """Why these tests cannot run on this machine, or None."""
    if os.geteuid() != 0:
        return "the Docker tests need root"
    if not os.path.exists("/dev/fuse"):
        return "this machine has no /dev/fuse"
    for program in ("dockerd", "containerd", "docker", "unshare", "nsenter", "ip"):
        if not shutil.which(program):
            return f"{program} is not installed: run ./dev setup"
    return None


def pytest_collection_modifyitems(items):
    reason = missing()
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test's report carries the ends of Orlop's and dockerd's logs."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for name in ("orlop", "engine"):
            thing = item.funcargs.get(name)
            if thing is not None:
                text = thing.logs(call.start) if name == "orlop" else thing.log()[-1500:]
                report.sections.append((f"log of {name}", text))


@pytest.fixture(scope="session")
def base():
    """The folder below which all of it lives; on a real disk, since overlayfs wants one."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="orlop-docker-tests-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def binary():
    """The binary under test: ORLOP_BINARY, which ./dev sets."""
    path = pathlib.Path(os.environ["ORLOP_BINARY"])
    assert path.is_file(), f"{path} is not there: run ./dev build"
    return path


def image_tar(name):
    done = subprocess.run([HERE / "images/build.sh", name], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def session_engine(base):
    def work():
        engine = Engine(base / "engine")
        try:
            engine.start()
            engine.import_image(image_tar("python"), BASE_IMAGE, 'CMD ["python"]', "ENV PYTHONUNBUFFERED=1")
            yield engine
        finally:
            engine.destroy()

    yield from without_dead_plugins(work)


@pytest.fixture(scope="session")
def session_orlop(base, binary):
    orlop = Orlop(binary, base / "orlop")
    try:
        orlop.up()
        yield orlop
    finally:
        orlop.destroy()


@pytest.fixture
def orlop(session_orlop):
    """Orlop, running."""
    session_orlop.ensure_up()
    return session_orlop


@pytest.fixture
def engine(session_engine, orlop):
    """dockerd, running without live-restore, and empty again afterwards."""
    engine = session_engine
    if engine.live_restore:
        engine.stop()
    engine.start()
    yield engine
    orlop.ensure_up()
    if engine.live_restore:
        engine.stop()
    engine.start()
    containers = engine.sh("ps", "-aq").split()
    if containers:
        engine.docker("rm", "-f", "-v", *containers, timeout=180)
    # Docker asks every plugin of this machine: volumes of another Orlop are listed too, and not ours to touch.
    listed = [x.split() for x in engine.sh("volume", "ls", "--format", "{{.Driver}} {{.Name}}").splitlines()]
    volumes = [name for driver, name in listed if driver in (orlop.driver, "local")]
    if volumes:
        engine.docker("volume", "rm", "-f", *volumes, check=False, timeout=180)


@pytest.fixture(scope="session")
def app_image(session_engine):
    """The example application, built the way its guide says, by a dockerd without any registry."""
    session_engine.docker("build", "-t", "myimage", REPOSITORY / "examples/python-app", timeout=300)
    return "myimage"


@pytest.fixture(scope="session")
def servers_image(session_engine):
    """PostgreSQL and Redis, as Debian packages them."""
    session_engine.import_image(image_tar("servers"), SERVERS_IMAGE)
    return SERVERS_IMAGE


@pytest.fixture
def name():
    """A name that no other test uses, for volumes and containers."""
    return f"t-{secrets.token_hex(4)}"


@pytest.fixture
def volume(engine, orlop, name):
    """A fresh volume, created through Docker."""
    assert engine.sh("volume", "create", "-d", orlop.driver, name) == name
    return name


@pytest.fixture
def sleeper(engine):
    """Starts a container that does nothing, with these arguments of `docker run`; returns its id."""

    def start(*args, image=BASE_IMAGE, command=("sleep", "1000")):
        return engine.sh("run", "-d", "--init", *args, image, *command)

    return start
