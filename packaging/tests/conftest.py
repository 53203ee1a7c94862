"""Fixtures of the packaging tests: packages of the binary under test, and a small Debian host to install them on.

The host is a container of our own dockerd that boots systemd, with a Docker of its own inside. Restarting
that container is a reboot: every process is gone, the disk stays.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/docker"))

from harness.engine import Engine  # noqa: E402
from harness.processes import run, wait_until  # noqa: E402


def missing():
    if os.geteuid() != 0:
        return "the packaging tests need root"
    for program in ("dpkg-deb", "dpkg-shlibdeps", "systemd-analyze", "dockerd", "containerd", "debootstrap"):
        if not shutil.which(program):
            return f"{program} is not installed: run ./dev setup"
    return None


def pytest_collection_modifyitems(items):
    reason = missing()
    if reason is None and not os.path.exists("/dev/fuse"):
        reason = "this machine has no /dev/fuse"
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def base():
    path = pathlib.Path(tempfile.mkdtemp(prefix="orlop-package-tests-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def binary():
    return pathlib.Path(os.environ["ORLOP_BINARY"])


@pytest.fixture(scope="session")
def build(base, binary):
    """Builds a package of this version; quick to pack, since nobody downloads it."""

    def make(version, out="packages"):
        env = {**os.environ, "ORLOP_DEB_COMPRESSION": "gzip", "ORLOP_DEB_LEVEL": "1"}
        return pathlib.Path(run(REPOSITORY / "packaging/build", binary, base / out, version, env=env, timeout=300).stdout.strip())

    return make


@pytest.fixture(scope="session")
def package(build):
    return build("1.0-1")


@pytest.fixture(scope="session")
def newer_package(build):
    return build("1.0-2")


def image_tar(name):
    done = subprocess.run([REPOSITORY / "tests/docker/images/build.sh", name], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def engine(base):
    engine = Engine(base / "engine", private_plugins=True)
    try:
        engine.start()
        engine.import_image(image_tar("host"), "orlop-test/host")
        yield engine
    finally:
        engine.destroy()


class Machine:
    """A Debian host."""

    def __init__(self, engine, folder):
        self.engine, self.folder = engine, folder
        capabilities = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "MKNOD", "DAC_READ_SEARCH"]
        args = [x for c in capabilities for x in ("--cap-add", c)]
        args += [x for o in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined") for x in ("--security-opt", o)]
        args += ["--device", "/dev/fuse", "--cgroupns", "host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--stop-signal", "SIGRTMIN+3"]
        args += ["--tmpfs", "/run", "--tmpfs", "/run/lock", "-e", "container=docker", "-v", f"{folder}:/packages:ro"]
        # Overlay file systems do not stack; and what is mounted inside must not be copied up on the way.
        args += ["-v", "/var/lib/docker", "-v", "/var/lib/containerd", "-v", "/var/lib/orlop"]
        self.id = engine.sh("run", "-d", *args, "orlop-test/host", "/sbin/init")
        self.booted()

    def booted(self):
        """Waits until systemd is through with starting."""
        states = ("running", "degraded")
        wait_until("the host is up", 150, lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in states, every=0.5)

    def run(self, *args, **kw):
        return self.engine.docker("exec", self.id, *args, **{"timeout": 200, **kw})

    def sh(self, script, **kw):
        """A shell script's output on the host."""
        return self.run("sh", "-ec", script, **kw).stdout.rstrip("\n")

    def install(self, package, **kw):
        return self.run("dpkg", "-i", f"/packages/{package.name}", **kw)

    def pid(self, unit):
        return int(self.sh(f"systemctl show -P MainPID {unit}"))

    def reboot(self):
        """A clean reboot: systemd stops everything in order, then all starts again."""
        self.engine.docker("stop", "-t", "120", self.id, timeout=200)
        self.engine.docker("start", self.id)
        self.booted()

    def cut_power(self):
        """An unclean one."""
        self.engine.docker("kill", self.id)
        self.engine.docker("start", self.id)
        self.booted()

    def destroy(self):
        self.engine.docker("rm", "-f", "-v", self.id, check=False, timeout=120)


@pytest.fixture
def bare_host(engine, package, newer_package):
    machine = Machine(engine, package.parent)
    yield machine
    machine.destroy()


@pytest.fixture
def host(bare_host, package):
    """A host with the package installed and an image for its own Docker."""
    bare_host.install(package)
    root = "/tmp/image"
    bare_host.sh(
        f"mkdir -p {root}/bin {root}/lib {root}/lib64 {root}/tmp; cp -aL /bin/sh /bin/cat /bin/ls /bin/sync /bin/sleep /bin/seq /bin/touch {root}/bin/;"
        f" mkdir -p {root}/lib/x86_64-linux-gnu; for p in sh cat ls sync sleep seq touch; do ldd /bin/$p | grep -o '/[^ ]*' || true; done |"
        f" sort -u | while read l; do mkdir -p {root}$(dirname $l); cp -L $l {root}$l; done;"
        f" tar -C {root} -c . | docker import - tiny >/dev/null; rm -rf {root}"
    )
    return bare_host
