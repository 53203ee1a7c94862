"""Starting, finding, stopping: always by process id, and only what belongs to a folder of ours."""

import os
import pathlib
import signal
import subprocess
import time


def wait_until(what, seconds, condition, every=0.05):
    """Returns the first truthy value of condition(); fails naming `what` after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds} s still not: {what}")
        time.sleep(every)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid, sig=signal.SIGKILL, seconds=30):
    """Signals a process and waits until it is gone."""
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return
    wait_until(f"process {pid} gone after signal {sig}", seconds, lambda: not alive(pid))


def processes_of(folder):
    """The processes whose command line names a path in this folder: ours, since the folder is ours alone."""
    needle = os.fsencode(str(folder))
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if needle in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def children_of(pid):
    """All descendants of a process."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def mounts_below(folder):
    """Mountpoints below a folder, the deepest and latest first."""
    prefix = str(folder).rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        points = [line.split()[4].replace("\\040", " ") for line in f]
    return [p for p in reversed(points) if p.startswith(prefix)]


def unmount_below(folder):
    """Takes every mount below a folder away, lazily: a dead file system must not block us."""
    for point in mounts_below(folder):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True, timeout=60)


def run(*args, check=True, timeout=120, stdin=None, env=None, cwd=None):
    """Runs a command and returns it finished, its output as text; on failure says what it printed."""
    done = subprocess.run(
        [str(a) for a in args],
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        env=env,
        cwd=cwd,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, args))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done
