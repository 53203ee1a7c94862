"""What all benchmarks share: a folder of their own, processes that never outlive them, and ways to look at memory.

Everything is ended by the process id that was started here, or, for Orlop's own daemon, keeper and workers, by the
root folder on their command line, which lies inside this run's own folder.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
MIB = 1 << 20


class Failed(Exception):
    """An operation of a contestant that did not work: goes into its cell."""


class TooLong(Failed):
    """One that was given up."""


class Missing(Failed):
    """A program that this run needs is not here."""


def target_folder():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CARGO_TARGET_DIR") or cache / "orlop" / "target")


def find(program, *places):
    """A program's path, from places first and PATH then."""
    for place in places:
        if place and os.access(place, os.X_OK):
            return str(place)
    found = shutil.which(program)
    if not found:
        raise Missing(f"{program} is not installed")
    return found


def run(argv, timeout=60, env=None, cwd=None, before=None, codes=(0,)):
    """Runs a program to its end; its output. Another exit code than these is Failed with what it said last."""
    child = subprocess.Popen(
        [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", env=env, cwd=cwd, start_new_session=True, preexec_fn=before,
    )
    try:
        out, err = child.communicate(timeout=timeout)
    except BaseException as e:
        child.kill()
        try:
            child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            pass  # it hangs in the kernel; the mount that it waits for is aborted when its contestant ends
        if isinstance(e, subprocess.TimeoutExpired):
            raise TooLong(f"not done after {timeout:.0f} s") from None
        raise
    if child.returncode not in codes:
        said = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said[-1:]
        raise Failed(f"{Path(argv[0]).name}: {errors[0].strip() if errors else f'exit code {child.returncode}'}")
    return out


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, timeout=20, every=0.05, child=None, log=None):
    end = time.monotonic() + timeout
    while not condition():
        if child is not None and child.poll() is not None:
            raise Failed(f"{what}: it ended with code {child.returncode}{last_line(log)}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not after {timeout:.0f} s{last_line(log)}")
        time.sleep(every)


def last_line(log):
    try:
        lines = [line for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].strip()[-200:]}" if lines else ""
    except (OSError, TypeError):
        return ""


# --- mounts and processes ---------------------------------------------------------------------------


def mounts_under(folder):
    """(mount point, device number) of every mount inside a folder, innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        point = fields[4].encode().decode("unicode_escape")
        if point == str(folder) or point.startswith(f"{folder}/"):
            found.append((point, fields[2]))
    return sorted(found, key=lambda f: -len(f[0]))


def is_mounted(point):
    return any(p == str(point) for p, _ in mounts_under(point))


def unmount(point, patience=10):
    """Unmounts a folder; one that does not come free is aborted, so that nobody waits on it for ever."""
    end = time.monotonic() + patience
    while is_mounted(point):
        if subprocess.run(["umount", str(point)], capture_output=True).returncode == 0:
            continue
        if time.monotonic() > end:
            for p, device in mounts_under(point):
                abort = Path("/sys/fs/fuse/connections") / device.split(":")[1] / "abort"
                if device.startswith("0:") and abort.exists():
                    abort.write_text("1")
                subprocess.run(["umount", "-l", p], capture_output=True)
            return
        time.sleep(0.2)


def stop(child, patience=15):
    if child is None:
        return
    for sig in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(sig)
            try:
                child.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                continue
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()


def processes_with(argument):
    """(pid, words) of every process that has an argument on its command line, this one excepted."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = Path(entry.path, "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if argument in words:
            found.append((int(entry.name), words))
    return found


def remove_tree(folder):
    """Removes a folder with all in it; many files at once, since on some disks each of them waits 4 ms."""

    def empty(path):
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)

    with ThreadPoolExecutor(32) as pool:
        for path, _, _ in os.walk(folder):
            pool.submit(empty, path)  # what it fails to remove, the second attempt meets
    shutil.rmtree(folder, ignore_errors=True)


class World:
    """A folder of this run's own. Leaving it ends what was started in it and removes it, however it is left."""

    def __init__(self, parent=None, keep=False):
        self.path = Path(tempfile.mkdtemp(prefix="orlop-bench.", dir=parent or "/var/tmp"))
        self.keep = keep
        self.at_end = []
        (self.path / "log").mkdir()

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(143)))
        signal.signal(signal.SIGHUP, lambda *_: (_ for _ in ()).throw(SystemExit(129)))
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave mounts behind.
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_IGN)
        while self.at_end:
            end = self.at_end.pop()
            try:
                end()
            except Exception as e:  # one that cannot be ended must not keep the others
                print(f"warning: while cleaning up: {e}", flush=True)
        for point, _ in mounts_under(self.path):
            unmount(point, patience=0)
        if mounts_under(self.path):
            print(f"warning: mounts are left below {self.path}; nothing there was removed", flush=True)
        elif self.keep:
            print(f"kept: {self.path}", flush=True)
        else:
            remove_tree(self.path)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_DFL)

    def log(self, name):
        return self.path / "log" / f"{name}.log"

    def spawn(self, name, argv, **more):
        """Starts a process that is ended with this world. Only from the main thread: it dies with the one that starts it."""
        with open(self.log(name), "ab") as log:
            more.setdefault("stdin", subprocess.DEVNULL)
            more.setdefault("stdout", log)
            child = subprocess.Popen(
                [str(a) for a in argv], stderr=log, start_new_session=True, preexec_fn=die_with_parent, **more
            )
        self.at_end.append(lambda: stop(child))
        return child


# --- memory -----------------------------------------------------------------------------------------


def status(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {k: int(v.split()[0]) * 1024 for k, _, v in (line.partition(":") for line in lines) if v.strip().endswith("kB")}


def rollup(pid):
    """Rss, Pss and Anonymous of a process, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {k: int(v.split()[0]) * 1024 for k, _, v in (line.partition(":") for line in lines)}


class PeakMemory:
    """The most memory that processes had while this was open: resident as the kernel counted it, anonymous as sampled."""

    def __init__(self, pids):
        self.pids = list(pids)
        self.rss = self.anonymous = 0

    def __enter__(self):
        for pid in self.pids:
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            except OSError:
                pass
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()
        return self

    def sample(self):
        while self.pids:
            self.anonymous = max(self.anonymous, sum(status(p).get("RssAnon", 0) for p in self.pids))
            if self.over.wait(0.05):
                break

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.rss = sum(status(p).get("VmHWM", 0) for p in self.pids)


class Limit:
    """A memory cgroup, of either version, for a reader and those who serve it."""

    def __init__(self, name, limit):
        first = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        base, knob = (first.parent, "memory.limit_in_bytes") if first.exists() else (Path("/sys/fs/cgroup"), "memory.max")
        self.path = base / name
        self.path.mkdir()
        self.moved = []
        try:
            if knob == "memory.max" and not (self.path / knob).exists():
                raise OSError("the memory controller is not enabled here")
            (self.path / knob).write_text(str(limit))
            if (self.path / "memory.swap.max").exists():
                (self.path / "memory.swap.max").write_text("0")
        except OSError as e:
            self.path.rmdir()
            raise Missing(f"no memory limit on this host: {e}") from None

    def home(self, pid):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base = Path("/sys/fs/cgroup/memory") if "memory" in controllers.split(",") else None
            if not controllers and not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
                base = Path("/sys/fs/cgroup")
            if base:
                return base / path.lstrip("/")
        raise Failed("no memory cgroup")

    def move(self, pids):
        for pid in pids:
            home = self.home(pid)
            (self.path / "cgroup.procs").write_text(str(pid))
            self.moved.append((pid, home))

    def enter(self):
        """For a child, before its program starts."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        for pid, home in self.moved:
            try:
                (home / "cgroup.procs").write_text(str(pid))
            except OSError:
                pass  # it is gone
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.05)


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def compile_driver(world):
    """The driver, compiled."""
    out = world.path / "driver"
    run([find("cc", "/usr/bin/gcc"), "-O2", "-pthread", "-o", out, HERE / "driver" / "driver.c"], timeout=120)
    return out


def machine():
    def first(path, key):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
        return "unknown"

    return {
        "kernel": os.uname().release,
        "processor": first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_mib": int(first("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "load_at_start": os.getloadavg(),
    }
