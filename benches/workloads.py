"""The workloads: what one round does in a contestant's folder, and which rows of the table come of it.

A group prepares a folder once for every contestant and is then run round by round, so that what changes on the
machine during the run meets all contestants alike. What is measured is done by the driver in C, by tar, or by git;
this program only starts them. Rates are all "more is better", so that ratios read the same in every row.
"""

import io
import json
import os
import random
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import MIB, Failed, Limit, TooLong, drop_caches, run

SMALL = 4096
PER_FOLDER = 200  # as the driver has it


@dataclass
class Row:
    key: str
    title: str
    unit: str  # "ops", "files" or "MiB", each per second
    cache: str
    ends: str  # "read", "closed" or "synced": which durability the end of it has


@dataclass
class Sizes:
    """How much is done; the two sets that options choose from are in bench.py."""

    files: int
    seconds: float
    big: int
    tar_files: int
    git_files: int
    limit: float

    def describe(self):
        return {**self.__dict__, "memory_limit": self.big // 2}


class Bench:
    """What groups need to do their work."""

    def __init__(self, world, driver, sizes):
        self.world, self.driver, self.sizes = world, driver, sizes

    def drive(self, operation, path, before=None, **settings):
        """One run of the driver: its answer, or Failed."""
        words = [f"{k}={v}" for k, v in settings.items()]
        patience = self.sizes.limit + settings.get("seconds", 0)
        out = run([self.driver, operation, path, *words], timeout=patience, before=before, codes=(0, 1))
        answer = json.loads(out)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def folders(self, path, files):
        """Makes the folders into which the driver spreads so many files."""
        self.drive("folders", path, count=-(-files // PER_FOLDER))


class Group:
    key = ""
    rows = []

    def prepare(self, bench, contestant):
        """Makes what every round uses. Not measured."""

    def round(self, bench, contestant, n, measure):
        """One round; `measure(row, work)` measures what `work` does."""
        raise NotImplementedError


def suffixed(rows, threads):
    if threads == 1:
        return rows
    return [Row(f"{r.key}-{threads}t", f"{r.title}, {threads} threads", r.unit, r.cache, r.ends) for r in rows]


class SmallFiles(Group):
    """4 KiB files that are there: opened, read, and asked about."""

    def __init__(self, threads):
        self.threads = threads
        self.key = "small" if threads == 1 else f"small-{threads}t"
        self.tail = "" if threads == 1 else f"-{threads}t"
        self.rows = suffixed([
            Row("openread-hot", "open + read 4 KiB + close", "ops", "hot", "read"),
            Row("openread-cold", "open + read 4 KiB + close", "ops", "page cache dropped", "read"),
            Row("stat-hot", "stat, second time", "ops", "hot", "read"),
        ], threads)

    def prepare(self, bench, contestant):
        self.files = bench.sizes.files
        folder = contestant.folder(self.key)
        bench.folders(folder, self.files)
        bench.drive("create", folder, count=self.files, size=SMALL)

    def round(self, bench, contestant, n, measure):
        folder, seconds = contestant.point / self.key, bench.sizes.seconds
        common = {"files": self.files, "size": SMALL, "seed": n + 2, "threads": self.threads}

        def read(**more):
            return bench.drive("openread", folder, **{**common, "seconds": seconds, "count": 1 << 30, **more})

        def stat(**more):
            return bench.drive("stat", folder, **{**common, "seconds": seconds, "count": 1 << 30, **more})

        read(count=self.files)
        measure(f"openread-hot{self.tail}", read)
        # Each file once: a second time would not be cold.
        measure(f"openread-cold{self.tail}", lambda: read(count=self.files), before=drop_caches)
        stat(count=self.files)
        measure(f"stat-hot{self.tail}", stat)


class Names(Group):
    """Files and folders that are made, renamed and removed."""

    def __init__(self, threads):
        self.threads = threads
        self.key = "names" if threads == 1 else f"names-{threads}t"
        self.tail = "" if threads == 1 else f"-{threads}t"
        self.rows = suffixed([
            Row("create", "create + write 4 KiB + close", "ops", "-", "closed"),
            Row("rename", "rename", "ops", "-", "closed"),
            Row("unlink", "unlink", "ops", "-", "closed"),
            Row("mkdir", "mkdir", "ops", "-", "closed"),
        ], threads)

    def round(self, bench, contestant, n, measure):
        folder, tail = contestant.folder(self.key, f"r{n + 1}"), self.tail
        files = bench.sizes.files
        limits = {"seconds": bench.sizes.seconds, "threads": self.threads}
        bench.folders(folder, files)
        made = measure(f"create{tail}", lambda: bench.drive("create", folder, count=files, size=SMALL, seed=n + 2, **limits))
        if made is None:
            measure.skip(f"rename{tail}", "nothing was created")
            measure.skip(f"unlink{tail}", "nothing was created")
        else:
            renamed = measure(f"rename{tail}", lambda: bench.drive("rename", folder, count=made["operations"], **limits))
            # What was not renamed in the time keeps its name and stays.
            if renamed is None:
                measure.skip(f"unlink{tail}", "nothing was renamed")
            else:
                count = renamed["operations"]
                measure(f"unlink{tail}", lambda: bench.drive("unlink", folder, count=count, suffix="r", **limits))
        measure(f"mkdir{tail}", lambda: bench.drive("mkdir", folder, count=files, **limits))


class Syncs(Group):
    """Appends that each wait until they are durable."""

    def __init__(self, threads):
        self.threads = threads
        self.key = "syncs" if threads == 1 else f"syncs-{threads}t"
        self.tail = "" if threads == 1 else f"-{threads}t"
        self.rows = suffixed([Row("appendsync", "append 4 KiB + fsync, each", "ops", "-", "synced")], threads)

    def round(self, bench, contestant, n, measure):
        folder = contestant.folder(self.key)
        work = {"io": SMALL, "count": 1 << 30, "seconds": bench.sizes.seconds, "threads": self.threads, "seed": n + 2}
        measure(f"appendsync{self.tail}", lambda: bench.drive("appendsync", folder, **work))


class BigFile(Group):
    """One file much larger than a request: written, read through, and hit at random places."""

    key = "big"
    rows = [
        Row("seqwrite", "sequential write + fsync", "MiB", "-", "synced"),
        Row("seqread-hot", "sequential read", "MiB", "hot", "read"),
        Row("seqread-cold", "sequential read", "MiB", "page cache dropped", "read"),
        Row("seqread-2x", "sequential read", "MiB", "file twice the memory", "read"),
        Row("randread-hot", "random read 4 KiB", "ops", "hot", "read"),
        Row("randread-cold", "random read 4 KiB", "ops", "page cache dropped", "read"),
        Row("randread-2x", "random read 4 KiB", "ops", "file twice the memory", "read"),
        Row("randwrite", "random write 4 KiB, fsync at the end", "ops", "-", "synced"),
    ]

    def prepare(self, bench, contestant):
        folder = contestant.folder(self.key)
        bench.drive("seqwrite", folder / "kept", io=MIB, count=bench.sizes.big // MIB)
        contestant.settle()

    def round(self, bench, contestant, n, measure):
        folder, big, seconds = contestant.point / self.key, bench.sizes.big, bench.sizes.seconds
        kept, written, blocks = folder / "kept", folder / "written", bench.sizes.big // MIB

        def sequential(before=None):
            return bench.drive("seqread", kept, io=MIB, count=blocks, before=before)

        def scattered(before=None):
            return bench.drive("randread", kept, io=SMALL, size=big, count=1 << 30, seconds=seconds, seed=n + 2, before=before)

        measure("seqwrite", lambda: bench.drive("seqwrite", written, io=MIB, count=blocks, seed=n + 2))
        run(["rm", "-f", written], timeout=bench.sizes.limit)
        contestant.settle()
        sequential()
        measure("seqread-hot", sequential)
        measure("randread-hot", scattered)
        measure("seqread-cold", sequential, before=drop_caches)
        measure("randread-cold", scattered, before=drop_caches)
        for row, work in (("seqread-2x", sequential), ("randread-2x", scattered)):
            if not measure.wants(row):
                continue
            try:
                limit = Limit(f"orlop-bench-{os.getpid()}", big // 2)
            except Failed as e:
                measure.skip(row, str(e))
                continue
            try:
                # Who serves the file caches it too: under the same limit, or the limit would be none.
                drop_caches()
                limit.move(contestant.pids())
                work(before=limit.enter)
                measure(row, lambda: work(before=limit.enter))
            except Failed as e:
                measure.skip(row, str(e))
            finally:
                limit.close()
        # As many places in every contestant and round, so that the time limit alone makes a difference.
        count = max(64, min(10_000, big // SMALL // 32))
        measure("randwrite", lambda: bench.drive("randwrite", kept, io=SMALL, size=big, count=count, seconds=seconds, seed=n + 2))


class Tree(Group):
    """Many small files from an archive, and read again."""

    key = "tree"
    rows = [
        Row("untar", "untar small files", "files", "-", "closed"),
        Row("tree-hot", "read that tree", "files", "hot", "read"),
        Row("tree-cold", "read that tree", "files", "page cache dropped", "read"),
    ]

    def __init__(self):
        self.archive = None

    def make(self, bench):
        """The archive: sizes between 100 bytes and 32 KiB, most of them small, as in source trees."""
        self.archive = bench.world.path / "small-files.tar"
        chance = random.Random(5)
        noise = chance.randbytes(64 << 10)
        with tarfile.open(self.archive, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(bench.sizes.tar_files):
                entry = tarfile.TarInfo(f"part{i // 1000:03}/folder{i // 50 % 20:02}/file{i:06}.txt")
                entry.size = int(min(32768, max(100, chance.lognormvariate(7.3, 1.0))))
                entry.mtime = 1_700_000_000 + i
                start = chance.randrange(len(noise) - 32768)
                tar.addfile(entry, io.BytesIO(noise[start : start + entry.size]))

    def prepare(self, bench, contestant):
        if self.archive is None:
            self.make(bench)
        contestant.folder(self.key)

    def unpack(self, bench, folder):
        since = time.monotonic()
        done = True
        try:
            run(["tar", "-xf", self.archive, "-C", folder], timeout=bench.sizes.limit)
        except TooLong:
            done = False
        took = time.monotonic() - since
        count = len(run(["find", folder, "-type", "f", "-printf", "."], timeout=bench.sizes.limit))
        if done and count != bench.sizes.tar_files:
            raise Failed(f"{count} of {bench.sizes.tar_files} files are there")
        if not count:
            raise TooLong(f"no file after {took:.0f} s")
        return {"operations": count, "bytes": 0, "seconds": took, "timed_out": not done}

    def round(self, bench, contestant, n, measure):
        folder = contestant.folder(self.key, f"r{n + 1}")
        if measure("untar", lambda: self.unpack(bench, folder)) is None:
            measure.skip("tree-hot", "it could not be unpacked")
            measure.skip("tree-cold", "it could not be unpacked")
            return

        def walk():
            return bench.drive("walk", folder, count=1 << 30, seconds=bench.sizes.limit)

        walk()
        measure("tree-hot", walk)
        measure("tree-cold", walk, before=drop_caches)


class Git(Group):
    """A repository cloned from the host's disk, and looked at."""

    key = "git"
    rows = [
        Row("git-clone", "git clone", "files", "-", "closed"),
        Row("git-status", "git status", "files", "hot", "read"),
    ]

    def __init__(self):
        self.source = None
        self.env = None

    def make(self, bench):
        self.source = bench.world.path / "repository"
        self.env = {**os.environ, "HOME": str(bench.world.path), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
                    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        chance = random.Random(7)
        words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 10))) for _ in range(2000)]
        for i in range(bench.sizes.git_files):
            path = self.source / f"part{i // 400:02}" / f"folder{i // 20 % 20:02}" / f"source{i:05}.c"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(" ".join(chance.choices(words, k=8)) for _ in range(int(chance.lognormvariate(3.8, 0.8)) + 1)))
        author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "all"], ["gc", "-q"]):
            run(["git", *words], timeout=300, env=self.env, cwd=self.source)

    def prepare(self, bench, contestant):
        if self.source is None:
            self.make(bench)
        contestant.folder(self.key)

    def round(self, bench, contestant, n, measure):
        folder, files = contestant.point / self.key / f"r{n + 1}", bench.sizes.git_files

        def git(*words):
            since = time.monotonic()
            out = run(["git", *words], timeout=bench.sizes.limit, env=self.env, cwd=bench.world.path)
            return out, {"operations": files, "bytes": 0, "seconds": time.monotonic() - since}

        # Without links into the source: a contestant on the same file system must not be spared the copying.
        if measure("git-clone", lambda: git("clone", "-q", "--no-hardlinks", self.source, folder)[1]) is None:
            measure.skip("git-status", "there is no clone")
            return

        def look():
            out, result = git("-C", folder, "status", "--porcelain")
            if out.strip():
                raise Failed(f"the clone differs: {out.splitlines()[0]}")
            return result

        look()
        measure("git-status", look)


def groups(threads):
    found = []
    for n in threads:
        found += [SmallFiles(n), Names(n), Syncs(n)]
    return [*found, BigFile(), Tree(), Git()]
