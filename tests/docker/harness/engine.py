"""A dockerd of our own, in a temporary folder and a network namespace of its own.

containerd runs apart from dockerd: a dockerd that spawned its own may not start again after kill -9.
The network namespace belongs to containerd's process and goes with it, so that bridges and packet rules
never meet those of a dockerd that the machine runs for itself.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading

import docker

from .processes import alive, children_of, processes_of, run, unmount_below, wait_until

# Some clients speak a newer API than Debian's dockerd and do not negotiate in every command.
API_VERSION = "1.41"


# Where every dockerd of this machine looks for plugins.
PLUGINS = pathlib.Path("/run/docker/plugins")


def without_dead_plugins(work):
    """Calls work() while the sockets of plugins that are dead lie aside, and puts them back.

    dockerd asks every plugin it finds about every name, and waits 15 s for each that is dead. Where a dockerd
    runs for the machine the sockets stay, since they keep it from making local volumes of the same names.
    """
    aside = None
    if not _answers(pathlib.Path("/var/run/docker.sock")):
        for path in PLUGINS.glob("*.sock"):
            if not _answers(path):
                # The same file system, and a folder in which dockerd does not look.
                aside = aside or pathlib.Path(tempfile.mkdtemp(prefix="orlop-tests-aside-", dir="/run"))
                path.rename(aside / path.name)
    try:
        yield from work()
    finally:
        for path in aside.glob("*.sock") if aside else []:
            if (PLUGINS / path.name).exists():
                path.unlink()
            else:
                path.rename(PLUGINS / path.name)
        if aside:
            aside.rmdir()


def _answers(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(2)
        try:
            s.connect(str(path))
        except OSError:
            return False
        return True


def _answers_http(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(2)
        try:
            s.connect(str(path))
            s.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return s.recv(64).startswith(b"HTTP/1.0 200")
        except OSError:
            return False


class Engine:
    """containerd and dockerd, started and stopped as one or apart."""

    def __init__(self, base: pathlib.Path, private_plugins=False):
        """With private_plugins this dockerd sees none of the plugins of the machine, in a mount namespace of its own."""
        self.base = base
        self.private_plugins = private_plugins
        self.socket = base / "docker.sock"
        self.live_restore = False
        self._containerd = None
        self._dockerd = None
        base.mkdir(parents=True)
        (base / "containerd.toml").write_text(
            'version = 2\n'
            f'root = "{base}/containerd/root"\n'
            f'state = "{base}/containerd/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{base}/containerd.sock"\n'
        )

    # --- life ---

    def start(self, wait=60, live_restore=False, wait_ready=True):
        """Starts what does not run; returns when the API answers."""
        if self._containerd is None or self._containerd.poll() is not None:
            command = ["unshare", "--net", "containerd", "--config", self.base / "containerd.toml"]
            if self.private_plugins:
                PLUGINS.mkdir(parents=True, exist_ok=True)
                hide = f"mount -t tmpfs none {PLUGINS} && exec \"$@\""
                command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", *command]
            self._containerd = self._spawn("containerd", command)
            wait_until("containerd listens", 30, (self.base / "containerd.sock").exists)
            run("nsenter", "-t", self._containerd.pid, "-n", "ip", "link", "set", "lo", "up")
        if self._dockerd is None or self._dockerd.poll() is not None:
            self.live_restore = live_restore
            command = ["nsenter", "-t", self._containerd.pid, "-n", *(["-m"] if self.private_plugins else []), "dockerd"]
            command += ["--containerd", self.base / "containerd.sock", "--data-root", self.base / "data"]
            command += ["--exec-root", self.base / "exec", "--pidfile", self.base / "dockerd.pid"]
            command += ["--host", f"unix://{self.socket}", "--log-level", "warn", "--config-file", self.base / "none.json"]
            command += ["--live-restore"] if live_restore else []
            (self.base / "none.json").write_text("{}")
            self._dockerd = self._spawn("dockerd", command)
        if wait_ready:
            self.wait_ready(wait)
        return self

    def wait_ready(self, seconds=60):
        """Waits until dockerd's API answers."""

        def answers():
            if self._dockerd.poll() is not None:
                raise AssertionError("dockerd ended:\n" + self.log()[-4000:])
            # While dockerd waits for a plugin it takes connections, but does not answer them.
            return self.socket.exists() and _answers_http(self.socket)

        wait_until("dockerd answers", seconds, answers)

    def stop(self, seconds=90):
        """Stops dockerd the clean way, as a service manager does. containerd goes on."""
        if self._dockerd and self._dockerd.poll() is None:
            self._dockerd.send_signal(signal.SIGTERM)
            self._dockerd.wait(seconds)

    def kill(self):
        """kill -9 of dockerd."""
        self._dockerd.kill()
        self._dockerd.wait(30)
        # The socket file of a killed dockerd stays; it must not look alive.
        self.socket.unlink(missing_ok=True)

    def restart(self, live_restore=False, wait=120):
        """A clean restart of dockerd."""
        self.stop()
        self.start(wait=wait, live_restore=live_restore)

    def power_off(self):
        """Everything at once and without a goodbye: dockerd, containerd, shims and containers."""
        pids = self.pids()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until("all of Docker gone", 30, lambda: not [p for p in pids if alive(p)])
        for process in (self._dockerd, self._containerd):
            if process:
                process.wait(30)
        unmount_below(self.base)
        # What a boot would clear: the run-time state lives on a tmpfs there.
        for path in ("docker.sock", "containerd.sock", "containerd.sock.ttrpc", "dockerd.pid"):
            (self.base / path).unlink(missing_ok=True)
        run("rm", "-rf", self.base / "containerd/state", self.base / "exec")

    def pids(self):
        """Every process of this engine: daemons, shims, and what runs in the containers."""
        found = set(processes_of(self.base))
        for pid in list(found):
            found.update(children_of(pid))
        return sorted(found)

    def destroy(self):
        """Ends everything at once and removes it; a polite end would wait for plugins that are gone already."""
        self.power_off()
        run("rm", "-rf", "--one-file-system", self.base / "data", self.base / "containerd", check=False)

    def log(self):
        """What dockerd logged so far."""
        return (self.base / "dockerd.log").read_text(errors="replace")

    @property
    def pid(self):
        return self._dockerd.pid

    # --- use ---

    def env(self):
        return {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_API_VERSION": API_VERSION, "DOCKER_BUILDKIT": "0",
                "COMPOSE_API_VERSION": API_VERSION, "DOCKER_CONFIG": str(self.base / "client")}

    def docker(self, *args, **kw):
        """The docker command line."""
        return run("docker", *args, env=self.env(), **kw)

    def sh(self, *args, **kw):
        """The output of a docker command, without the last newline."""
        return self.docker(*args, **kw).stdout.rstrip("\n")

    def inspect(self, kind, name):
        return json.loads(self.sh(kind, "inspect", name))[0]

    def exec(self, container, script, **kw):
        """The output of a shell script in a container."""
        return self.sh("exec", container, "sh", "-ec", script, **kw)

    def sdk(self, timeout=120):
        """docker-py's client of this dockerd."""
        return docker.DockerClient(base_url=f"unix://{self.socket}", version=API_VERSION, timeout=timeout)

    def import_image(self, tar, tag, *changes):
        if self.docker("image", "inspect", tag, check=False).returncode != 0:
            args = [x for change in changes for x in ("--change", change)]
            self.docker("import", *args, tar, tag, timeout=300)

    def _spawn(self, name, command):
        log = open(self.base / f"{name}.log", "ab")
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        log.close()
        # Reaps it whenever it ends, so that no zombie looks alive.
        threading.Thread(target=process.wait, daemon=True).start()
        return process
