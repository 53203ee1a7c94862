"""An Orlop of our own: its root below a temporary folder, its Docker plugin under a name of its own.

Docker finds plugins in one global folder, so the plugin's name is random and is the driver's name in tests.
"""

import json
import os
import pathlib
import secrets
import signal

from .processes import alive, kill, processes_of, run, unmount_below, wait_until

PLUGINS = pathlib.Path("/run/docker/plugins")


class Orlop:
    """The binary under test, with one root."""

    def __init__(self, binary: pathlib.Path, base: pathlib.Path, plugin=True):
        self.binary = binary
        self.root = base / "root"
        self.driver = f"orlop-test-{secrets.token_hex(4)}" if plugin else None
        base.mkdir(parents=True, exist_ok=True)

    # --- life ---

    def up(self, *args, **kw):
        """`orlop up`: returns when the daemon serves."""
        plugin = ["--plugin-name", self.driver] if self.driver else ["--no-docker-plugin"]
        return self.cli("up", *plugin, *args, timeout=60, **kw)

    def down(self, *args, **kw):
        return self.cli("down", *args, timeout=120, **kw)

    @property
    def daemon_pid(self):
        """The daemon's process id, or None if it does not run."""
        try:
            pid = int((self.root / "run/daemon.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        return pid if alive(pid) and pid in self.pids() else None

    @property
    def socket(self):
        """The plugin's socket file."""
        return PLUGINS / f"{self.driver}.sock"

    def pids(self):
        """Daemon, keeper and workers: whatever runs with our root."""
        return processes_of(self.root)

    def kill_daemon(self):
        """kill -9 of the daemon alone; keeper and workers go on."""
        pid = self.daemon_pid
        assert pid, "the daemon does not run"
        kill(pid)
        return pid

    def ensure_up(self):
        if self.daemon_pid is None:
            self.up()

    def power_off(self):
        """Daemon, keeper and workers at once, without a goodbye; mounts gone, as after a power cut."""
        pids = self.pids()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until("all of Orlop gone", 30, lambda: not [p for p in pids if alive(p)])
        unmount_below(self.root)
        run("rm", "-rf", self.root / "run")

    def destroy(self):
        """Ends everything and removes the root."""
        self.cli("down", "--force", check=False, timeout=120)
        for pid in self.pids():
            kill(pid)
        unmount_below(self.root)
        if self.driver:
            self.socket.unlink(missing_ok=True)
        run("rm", "-rf", "--one-file-system", self.root, check=False)

    # --- use ---

    def cli(self, *args, **kw):
        return run(self.binary, "--root", self.root, *args, **kw)

    def json(self, *args, **kw):
        return json.loads(self.cli("--output", "json", *args, **kw).stdout)

    def volume(self, name):
        """One volume as `orlop volume inspect` shows it."""
        (volume,) = self.json("volume", "inspect", name)
        return volume

    def volumes(self, *args):
        """The volumes; with --all the removed ones too."""
        return self.json("volume", "list", *args)

    def logs(self, since):
        """The ends of the log files written to since a time, for the report of a failed test."""
        out = []
        for path in sorted((self.root / "log").glob("*.log")):
            if path.stat().st_mtime >= since:
                out.append(f"--- {path.name}\n" + path.read_text(errors="replace")[-1500:])
        return "\n".join(out)
