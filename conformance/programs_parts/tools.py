"""SQLite, git, and a C project from Debian's source: what developers keep on volumes."""

import hashlib
import os
import pathlib
import random
import re
import sqlite3
import subprocess
import sys
import time

from .world import CACHE, HERE, Skipped, program, run, wait_until

WRITER = """
import hashlib, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute(f"PRAGMA journal_mode={sys.argv[2]}")
db.execute("PRAGMA synchronous=FULL")
n = int(sys.argv[3])
while True:
    n += 1
    db.execute("BEGIN")
    db.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (n, hashlib.sha256(str(n).encode()).hexdigest() * (n % 40)))
    if n % 7 == 0:
        db.execute("UPDATE t SET v = v WHERE n % 13 = ?", (n % 13,))
    db.execute("COMMIT")
    print(n, flush=True)
"""


def sqlite(world):
    """Killed with -9 amid transactions, in both kinds of journal; every other time the worker dies too."""
    randomness, told = random.Random(world.seed), []
    for mode in ("WAL", "DELETE"):
        path = world.folder / f"{mode}.db"
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT)")
        db.commit()
        db.close()
        acknowledged = 0
        for number in range(world.rounds):
            command = [sys.executable, "-c", WRITER, path, mode, str(acknowledged)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                first = writer.stdout.readline()
                assert first, f"{mode}: the writer wrote nothing in round {number + 1}"
                time.sleep(randomness.uniform(0.05, 0.6))
                if number % 2:
                    world.kill_worker()
                writer.kill()
                lines = [first, *writer.stdout.readlines()]
            # A number that was cut off in the middle was not told.
            acknowledged = int([line for line in lines if line.endswith("\n")][-1])
            db = sqlite3.connect(path, timeout=30)
            (answer,) = db.execute("PRAGMA integrity_check").fetchone()
            assert answer == "ok", f"{mode}, round {number + 1}, seed {world.seed}: {answer}"
            rows = dict(db.execute("SELECT n, v FROM t"))
            db.close()
            for n in range(1, acknowledged + 1):
                expected = hashlib.sha256(str(n).encode()).hexdigest() * (n % 40)
                assert rows.get(n) == expected, f"{mode}, round {number + 1}, seed {world.seed}: row {n} of {acknowledged} is {rows.get(n)!r}"
        told.append(f"{mode} {acknowledged} transactions")
    world.check()
    return f"{world.rounds} kills each; " + ", ".join(told)


def git(world):
    """A clone of this repository, commits, gc that is interrupted by the worker's death, fsck."""
    program("git")
    source, clone = HERE.parent.parent, world.folder / "clone"
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
           "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_CONFIG_COUNT": "1",
           "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}

    def g(*args, where=clone, **kw):
        return run("git", "-C", where, "-c", "gc.auto=0", *args, env=env, timeout=600, **kw).stdout.strip()

    g("clone", "-q", "--no-local", source, clone, where="/")
    tree = g("rev-parse", "HEAD^{tree}", where=source)
    assert g("rev-parse", "HEAD^{tree}") == tree and not g("status", "--porcelain"), "the clone is not what was cloned"
    commits = 20 if world.short else 200
    for n in range(commits):
        (clone / f"file-{n % 17}").write_text(f"{n}\n" * (n % 50 + 1))
        g("add", "-A")
        g("commit", "-qm", f"commit {n}")
        if n % 50 == 25:
            world.kill_worker()
    with subprocess.Popen(["git", "-C", clone, "gc", "-q", "--prune=now"], env=env) as gc:
        time.sleep(0.3)
        world.kill_worker()
        assert gc.wait(600) == 0, "git gc failed when the worker was killed"
    g("fsck", "--full", "--strict")
    assert int(g("rev-list", "--count", "HEAD")) >= commits and not g("status", "--porcelain")
    g("checkout", "-q", f"HEAD~{commits}")
    assert g("rev-parse", "HEAD^{tree}") == tree and not g("status", "--porcelain"), "what was checked out is not what was cloned"
    world.check()
    return f"{commits} commits, gc with the worker killed, fsck --full --strict"


def _sources(package, into):
    """Debian's source of a package, kept in the cache folder. The system's own apt sources are not changed."""
    kept = CACHE / "sources"
    found = sorted(kept.glob(f"{package}_*.dsc"))
    if not found:
        kept.mkdir(parents=True, exist_ok=True)
        parts, lists = into / "apt/parts", into / "apt/lists"
        for folder in (parts, lists):
            folder.mkdir(parents=True, exist_ok=True)
        for path in [pathlib.Path("/etc/apt/sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("debian*")]:
            if path.is_file():
                text = re.sub(r"^(Types:)?( *)deb\b(?!-)( deb-src)?", r"\1\2deb-src", path.read_text(), flags=re.M)
                (parts / path.name).write_text(text)
        options = ["-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={parts}", "-o", f"Dir::State::Lists={lists}"]
        run("apt-get", "-qq", *options, "update", timeout=300, check=False)
        got = run("apt-get", "-qq", *options, "source", "--download-only", package, cwd=kept, timeout=300, check=False)
        found = sorted(kept.glob(f"{package}_*.dsc"))
        if not found:
            raise Skipped(f"Debian's source of {package} cannot be fetched: {got.stderr.strip()[-200:]}")
    return found[-1]


def debian_build(world):
    """Unpacked, configured, built, tested by its own tests and installed, all on the volume, with the worker killed on the way."""
    for name in ("dpkg-source", "make", "gcc"):
        program(name)
    told = []
    for package, steps in {
        "hello": ["./configure -q --prefix=$PWD/../installed CFLAGS=-O2", "make -s -j2", "make -s check", "make -s install", "../installed/bin/hello"],
        "lua5.4": ["make -s -j2 -C src linux-noreadline", "make -s install INSTALL_TOP=$PWD/../installed",
                   "../installed/bin/lua -e 'local t = {} for i = 1, 100000 do t[i] = i end print(#t)' | grep -x 100000"],
    }.items():
        began, folder = time.monotonic(), world.folder / package
        folder.mkdir()
        run("dpkg-source", "--no-check", "--skip-patches", "-x", _sources(package, world.base), folder / "source", cwd=folder, timeout=300)
        for step in steps:
            # `make` looks at times: what it built must not look older than its sources.
            with subprocess.Popen(["sh", "-ec", step], cwd=folder / "source", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as done:
                if step.startswith("make -s -j2"):
                    time.sleep(1)
                    world.kill_worker()
                out, _ = done.communicate(timeout=900)
            assert done.returncode == 0, f"{package}: {step}\n{out[-3000:]}"
        again = run("make", *(["-C", "src", "linux-noreadline"] if package == "lua5.4" else []), cwd=folder / "source")
        assert " -c " not in again.stdout, f"{package}: make compiles again what it has just built: {again.stdout[-1000:]}"
        told.append(f"{package} {time.monotonic() - began:.0f} s")
    world.check()
    return ", ".join(told)
