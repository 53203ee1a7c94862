"""An Orlop of our own with one mounted volume, on the local store or on an S3 server of our own, and its end.

Decides where everything lies (one temporary folder) and how a power failure is made; knows no program.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests/docker"))

from harness.orlop import Orlop  # noqa: E402
from harness.processes import alive, kill, mounts_below, processes_of, run, wait_until  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "orlop"


class Skipped(Exception):
    """What was asked for cannot be done here; the text says why."""


def program(name):
    """A program's path, or a skip that says that it is missing."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin:{CACHE}/tools/bin")
    if not found:
        raise Skipped(f"{name} is not installed")
    return found


class S3Server:
    """A real S3 server over a folder. It is another machine: neither kills nor power failures reach it."""

    KEY, SECRET = "orlop-programs", "orlop-programs-secret"

    def __init__(self, base):
        binary = program("s3s-fs")
        (base / "s3/data/bucket").mkdir(parents=True)
        self.credentials = base / "s3/credentials"
        self.credentials.write_text(f"[default]\naws_access_key_id = {self.KEY}\naws_secret_access_key = {self.SECRET}\n")
        self.credentials.chmod(0o600)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        with open(base / "s3/log", "wb") as log:
            command = [binary, "--host", "127.0.0.1", "--port", str(self.port), "--access-key", self.KEY, "--secret-key", self.SECRET]
            self.process = subprocess.Popen([*command, base / "s3/data"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("the S3 server listens", 20, self._listens)

    def _listens(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()


class Disk:
    """A disk that can lose its power: an ext4 image on a loop device, on an xfs that clones files atomically.

    What processes wrote and nobody synced is in the page cache of the ext4, not in the image. A clone of the image is
    one moment of what reached the device, so that it lacks what a power failure takes. Not covered: a drive that loses
    or reorders what it has taken into a cache of its own, since the loop device keeps everything that was handed to it.
    """

    def __init__(self, base, gigabytes=8):
        for name in ("mkfs.xfs", "mkfs.ext4"):
            program(name)
        self.base, self.folder = base, base / "disk"
        self.image = base / "outer/disk.img"
        for folder in (self.folder, base / "outer"):
            folder.mkdir()
        run("truncate", "-s", f"{2 * gigabytes}G", base / "outer.img")
        run(program("mkfs.xfs"), "-q", "-m", "reflink=1", base / "outer.img")
        run("mount", "-o", "loop", base / "outer.img", base / "outer")
        run("truncate", "-s", f"{gigabytes}G", self.image)
        run(program("mkfs.ext4"), "-q", self.image)
        self._mount()

    def _mount(self):
        run("mount", "-o", "loop", self.image, self.folder)

    def cut(self):
        """One moment of what is on the device; the processes are dead or about to lose everything else."""
        run("cp", "--reflink=always", self.image, f"{self.image}.cut", timeout=300)

    def back(self):
        """Power is back: the device is as it was at the cut. The journal of the file system is replayed by mounting it."""
        wait_until("the disk is unmounted", 60, self._unmounted, every=0.2)
        os.replace(f"{self.image}.cut", self.image)
        self._mount()

    def _unmounted(self):
        if os.path.ismount(self.folder):
            subprocess.run(["umount", self.folder], check=False, capture_output=True)
        # The kernel lets go of the loop device a moment later.
        return not os.path.ismount(self.folder) and not run("losetup", "-j", self.image).stdout.strip()


class World:
    """One Orlop, one store, one volume mounted on `self.folder`."""

    def __init__(self, binary, store, cache, seed, rounds, short, power=False, owner=0):
        self.binary, self.store, self.cache, self.seed, self.rounds, self.short = binary, store, cache, seed, rounds, short
        self.server = self.disk = self.orlop = None
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="orlop-programs.", dir=os.environ.get("TMPDIR", "/var/tmp")))
        # Programs run as their own users.
        self.base.chmod(0o755)
        self.folder = self.base / "mnt"
        self.folder.mkdir()
        try:
            self._make(power, owner)
        except BaseException:
            self.end()
            raise

    def _make(self, power, owner):
        if power:
            # What is mounted below is seen alike in the mount namespaces that `_up` makes.
            run("mount", "--bind", self.base, self.base)
            run("mount", "--make-shared", self.base)
            self.disk = Disk(self.base)
        self.orlop = Orlop(self.binary, self.disk.folder if power else self.base, plugin=False)
        self._up()
        options = ["-o", f"cache={self.cache}", "-o", f"uid={owner}", "-o", f"gid={owner}", "-o", "mode=755"]
        if self.store == "s3":
            self.server = S3Server(self.base)
            where = ["--set", f"endpoint=http://127.0.0.1:{self.server.port}", "--set", "region=us-east-1"]
            self.orlop.cli("store", "add", "cloud", "s3://bucket/p", "--credentials", f"file:{self.server.credentials}", *where)
            options += ["-o", "store=cloud"]
        made = self.orlop.cli("volume", "create", "programs", *options, check=False)
        if made.returncode == 11:
            raise Skipped(f"cache={self.cache}: {made.stderr.strip()}")
        assert made.returncode == 0, made.stderr
        self.mount()

    def _up(self):
        """`orlop up`. On a disk that loses its power each start is a boot: it sees a boot id of its own.

        Orlop trusts what is in the page cache as long as the boot id is the same.
        """
        if not self.disk:
            self.orlop.up()
            return
        boot = self.base / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        script = f"mount --make-private /proc && mount --bind {boot} /proc/sys/kernel/random/boot_id && exec \"$@\""
        up = [self.binary, "--root", self.orlop.root, "up", "--no-docker-plugin"]
        run("unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", script, "sh", *up)

    def mount(self):
        self.orlop.cli("mount", "programs", self.folder)

    def worker(self):
        """The process that answers for the volume; waits for it while a dead one is replaced."""

        def pid():
            workers = self.orlop.json("status")["keeper"]["workers"]
            return workers[0]["pid"] if workers else 0

        return wait_until("a worker runs", 120, pid)

    def kill_worker(self):
        """kill -9 of the worker; the keeper starts another one."""
        kill(self.worker())

    def power_failure(self):
        """Everything of this host ends at once and what was not on the device is gone; then it boots.

        The processes given by the caller are dead already. Returns whether a file that was never synced was lost too,
        which shows that the cut is one.
        """
        marker = self.disk.folder / f"never-synced-{time.monotonic_ns()}"
        marker.write_bytes(b"x" * 4096)
        for pid in self.orlop.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.disk.cut()
        wait_until("all of Orlop gone", 60, lambda: not [p for p in self.orlop.pids() if alive(p)])
        self._unmount_volume()
        self.disk.back()
        run("rm", "-rf", self.orlop.root / "run")
        lost = not marker.exists()
        marker.unlink(missing_ok=True)
        self._up()
        self.mount()
        return lost

    def _unmount_volume(self):
        # The mount that programs use is a bind of one below the root.
        for point in [p for p in mounts_below(self.base) if p == str(self.folder)] + mounts_below(self.disk.folder):
            run("umount", "-l", point, check=False)

    def check(self):
        """`orlop check` finds every byte whole."""
        checked = self.orlop.cli("check", "programs", check=False, timeout=600)
        assert checked.returncode == 0, f"orlop check: exit {checked.returncode}\n{checked.stdout}{checked.stderr}"

    def end(self):
        """Nothing of it is left: no process, no mount, no loop device, no file."""
        if self.orlop:
            self.orlop.cli("down", "--force", check=False, timeout=180)
        for pid in processes_of(self.base):
            kill(pid)
        if self.server:
            self.server.stop()
        # The folder itself is a mount when power fails in it.
        for point in [p for p in mounts_below(self.base.parent) if pathlib.Path(p).is_relative_to(self.base)]:
            for _ in range(50):
                if run("umount", point, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                run("umount", "-l", point, check=False)
        shutil.rmtree(self.base, ignore_errors=True)
