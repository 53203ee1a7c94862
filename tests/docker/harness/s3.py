"""An S3 server of our own: s3s-fs on a loopback port, its objects in a folder, its life in our hands."""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess

from .processes import wait_until

ACCESS_KEY, SECRET_KEY, BUCKET = "orlop-docker-test-key", "orlop-docker-test-planted-secret", "bucket"


def program():
    """The server's program, or None."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    path = pathlib.Path(cache) / "orlop/tools/bin/s3s-fs"
    return shutil.which("s3s-fs") or (str(path) if path.is_file() else None)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class S3:
    """The server; it can go away and come back with all that it acknowledged, at the same address."""

    def __init__(self, base: pathlib.Path):
        self.base = base
        self.folder = base / "data" / BUCKET
        self.folder.mkdir(parents=True)
        self.credentials = base / "credentials"
        self.credentials.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
        self.credentials.chmod(0o600)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self._child = None
        self.start()

    def start(self):
        command = [program(), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, str(self.base / "data")]
        with open(self.base / "log", "ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent)
        wait_until("the S3 server listens", 20, self._listens)

    def stop(self):
        """It is gone: connections are refused."""
        self._child.kill()
        self._child.wait(20)

    def destroy(self):
        if self._child.poll() is None:
            self.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    def words(self, name):
        """The words of `orlop store add` for it."""
        settings = (f"endpoint=http://127.0.0.1:{self.port}", "region=us-east-1", "timeout=2s", "connect_timeout=1s")
        return ["store", "add", name, f"s3://{BUCKET}/p", "--credentials", f"file:{self.credentials}",
                *(w for s in settings for w in ("--set", s))]

    def holds(self, needle):
        """Whether these bytes are in the name or the contents of anything the server keeps."""
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        assert files, "the server has no object at all"
        return any(needle in os.fsencode(p.relative_to(self.folder)) or needle in p.read_bytes() for p in files)

    def _listens(self):
        assert self._child.poll() is None, "the S3 server ended:\n" + (self.base / "log").read_text(errors="replace")[-1000:]
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0
