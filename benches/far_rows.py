"""What is measured on a store that is far away, row by row: what each contestant does in one round."""

import time
from concurrent.futures import ThreadPoolExecutor

from common import MIB, Failed, drop_caches, run
from elsewhere import Elsewhere
from workloads import PER_FOLDER

SMALL = 100 << 10
WRITERS = 12
BLOCK = 4096
OVERWRITES = 1000
# Longer than what was written stays in the log alone on a volume that nobody uses: its fold uploads too.
WATCHED = 70


class Row:
    """Rounds of everybody named here, each `NAME(far, n)`; targets are (more is better) ratios of Orlop to others."""

    key = title = ""
    contestants = ()
    targets = {}
    warm_up = True

    def prepare(self, far):
        """Makes what every round uses. Not measured, and without latency."""


def together(far, move, use):
    """The floor: a bare transfer while the same program uses a file system that does the least work and stores nothing.

    Whoever has the bytes from a program through FUSE and moves them to or from the store has to do both.
    """
    def work():
        since = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(move)
            use()
            return moving.result() | {"seconds": time.monotonic() - since}

    return far.measured(far.bare, work)


class Small(Row):
    """Files are as durable at the end as those of s3fs, which uploads each at its close."""

    key, title = "small", f"{SMALL >> 10} KiB files by {WRITERS} writers"
    contestants = ("bare", "same", "floor", "orlop", "s3fs")
    targets = {"bare": 0.9, "s3fs": 10}

    def bare(self, far, n):
        return far.measured(far.bare, lambda: far.bare.put(far.files * SMALL))

    def same(self, far, n):
        """As many objects as there are files, as large and as many at once."""
        return far.measured(far.bare, lambda: far.bare.put(far.files * SMALL, SMALL, WRITERS, prefix="small"))

    def floor(self, far, n):
        folder = self.folder(far, far.null, n, far.files)
        sample = together(far, lambda: far.bare.put(far.files * SMALL), lambda: self.create(far, folder, n))
        run(["rm", "-rf", folder], timeout=600)
        return sample

    def orlop(self, far, n):
        folder = self.folder(far, far.orlop, n, far.files)

        def work():
            sample = self.create(far, folder, n)
            # What is synced on a volume makes all before it durable.
            since = time.monotonic()
            run(["sync", folder], timeout=600)
            return sample | {"seconds": sample["seconds"] + time.monotonic() - since}

        sample = far.measured(far.orlop, work)
        if sample["at_end"]["bytes_up"] < sample["bytes"]:
            raise Failed("the sync ended before the store had all files")
        run(["rm", "-rf", folder], timeout=600)
        far.orlop.proxy.settle(quiet=6)
        return sample

    def s3fs(self, far, n):
        folder = self.folder(far, far.s3fs, n, min(far.files, 10 * PER_FOLDER))
        return far.measured(far.s3fs, lambda: self.create(far, folder, n, seconds=far.s3fs_seconds))

    def folder(self, far, contestant, n, files):
        folder = contestant.folder("small", f"r{n + 1}")
        far.drive("folders", folder, count=-(-files // PER_FOLDER))
        return folder

    def create(self, far, folder, n, **limits):
        count = min(far.files, 10 * PER_FOLDER) if limits else far.files
        return far.drive("create", folder, count=count, size=SMALL, threads=WRITERS, seed=n + 2, **limits)


class Write(Row):
    key, title = "write", "one file written in sequence, then fsync"
    contestants = ("bare", "floor", "orlop")
    targets = {"bare": 0.9}

    def bare(self, far, n):
        return far.measured(far.bare, lambda: far.bare.put(far.bytes))

    def floor(self, far, n):
        path = far.null.folder("written") / f"r{n + 1}"
        use = lambda: far.drive("seqwrite", path, io=MIB, count=far.bytes // MIB, seed=n + 2)
        sample = together(far, lambda: far.bare.put(far.bytes), use)
        run(["rm", "-f", path], timeout=60)
        return sample

    def orlop(self, far, n):
        path = far.orlop.folder("written") / f"r{n + 1}"
        sample = far.measured(far.orlop, lambda: far.drive("seqwrite", path, io=MIB, count=far.bytes // MIB, seed=n + 2))
        if sample["at_end"]["bytes_up"] < far.bytes:
            raise Failed("the fsync ended before the store had the file")
        run(["rm", "-f", path], timeout=60)
        # Past the moment at which the volume deletes what is left of it.
        far.orlop.proxy.settle(quiet=6)
        return sample


class Cold(Row):
    """Each round on an Orlop that was never there; the first reader has the pages of nobody, the server included."""

    key, title = "cold", "that file read, no byte of it on this host"
    contestants = ("bare", "floor", "orlop")
    targets = {"bare": 0.8}

    def prepare(self, far):
        far.bare.put(far.bytes, prefix="cold")
        for who in (far.null, far.orlop):
            far.drive("seqwrite", who.folder("cold") / "file", io=MIB, count=far.bytes // MIB)
        far.orlop.unmount()

    def bare(self, far, n):
        drop_caches()
        return far.measured(far.bare, lambda: far.bare.get(far.bytes, prefix="cold"))

    def floor(self, far, n):
        drop_caches()
        use = lambda: far.drive("seqread", far.null.point / "cold" / "file", io=MIB, count=far.bytes // MIB)
        return together(far, lambda: far.bare.get(far.bytes, prefix="cold"), use)

    def orlop(self, far, n):
        other = Elsewhere(far.orlop)
        try:
            other.start()
            other.mount()
            drop_caches()
            path = other.point / "cold" / "file"
            sample = far.measured(other, lambda: far.drive("seqread", path, io=MIB, count=far.bytes // MIB))
            other.unmount()
        finally:
            other.clear()
        if sample["at_end"]["bytes_down"] < far.bytes:
            raise Failed("not all of it came from the store")
        return sample


class Overwrite(Row):
    """Counted from a volume at rest until it is at rest again: all that the overwrites cost, whenever it is sent."""

    key, title = "overwrite", f"{OVERWRITES:,} random overwrites of 4 KiB, then sync"
    contestants = ("orlop",)
    # Bytes sent for each changed byte, at most.
    most = 8
    warm_up = False

    def prepare(self, far):
        far.drive("seqwrite", far.orlop.folder("overwritten") / "file", io=MIB, count=far.bytes // MIB)

    def orlop(self, far, n):
        # What came before is folded by this.
        far.orlop.unmount()
        far.restore()
        path = far.orlop.point / "overwritten" / "file"

        def settle():
            time.sleep(far.watched)
            far.orlop.unmount()

        def work():
            return far.drive("randwrite", path, io=BLOCK, size=far.bytes, count=OVERWRITES, seed=n + 2)

        sample = far.measured(far.orlop, work, settle)
        far.restore()
        return sample


ROWS = [Small(), Write(), Overwrite(), Cold()]
