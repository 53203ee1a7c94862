#!/usr/bin/python3
"""What the worker of one busy volume takes of memory: many files made and walked, much data streamed in and out.

    benches/busy.py [--store local|s3] [--files N] [--seconds S] [--stream GIB] [--limit MIB] [--check]

Makes files (as many as asked for, or as many as the time allows, and says how many), walks over all of them twice with
the kernel's caches dropped, streams a file in, syncs it, streams it out again, and removes all files. Reports for each part the most memory
that the worker had: resident, as the kernel counted it, and anonymous, as sampled. With `--limit` the worker is put into a
memory cgroup of that size; being killed there, or replaced for any other reason, is a failure. `--check` makes more than
256 MiB, or any failure, exit code 1.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
from common import MIB, Failed, Limit, PeakMemory, World, compile_driver, drop_caches, machine, run, status
from program import need_root, run_program, say
from s3 import Server
from workloads import PER_FOLDER

BUDGET = 256 * MIB


class Busy:
    """One volume, its worker, and what it was seen to take."""

    def __init__(self, orlop, driver):
        self.orlop, self.driver, self.rows = orlop, driver, []
        self.worker = orlop.pids()
        if len(self.worker) != 1:
            raise Failed(f"{len(self.worker)} workers for one volume")

    def call(self, operation, path, limit, **settings):
        words = [f"{k}={v}" for k, v in settings.items()]
        return json.loads(run([self.driver, operation, path, *words], timeout=limit).splitlines()[-1])

    def part(self, name, work):
        say(f"    {name}")
        began = time.monotonic()
        with PeakMemory(self.worker) as peak:
            done = work()
        if self.orlop.pids() != self.worker:
            raise Failed(f"{name}: the worker did not live through it")
        after = status(self.worker[0])
        self.rows.append({
            "part": name, "done": done, "seconds": time.monotonic() - began, "peak_rss": peak.rss, "peak_anonymous": peak.anonymous,
            "rss_after": after.get("VmRSS", 0), "anonymous_after": after.get("RssAnon", 0),
        })
        return done

    def files(self, wanted, seconds, threads):
        folder = self.orlop.folder("files")
        self.part("folders", lambda: self.call("folders", folder, seconds + 60, count=-(-wanted // PER_FOLDER))["operations"])
        made = self.part("files made", lambda: self.call(
            "create", folder, seconds + 120, count=wanted, size=100, threads=threads, seconds=seconds)["operations"])
        for turn in ("walked", "walked again"):
            drop_caches()
            seen = self.part(f"files {turn}", lambda: self.walk(folder))
            if seen < made:
                raise Failed(f"{made} files were made and {seen} are there")
        return made

    def remove(self, made, limit):
        def work():
            # In a process of its own, as the walk.
            run(["rm", "-rf", self.orlop.folder("files")], timeout=limit)
            return made

        self.part("files removed", work)

    def walk(self, folder):
        # A stat of each, in a process of its own: what hangs in the mount does not hang this program.
        out = run(["find", folder, "-type", "f", "-size", "-2", "-printf", "x"], timeout=1800)
        return len(out)

    def stream(self, gib):
        path, size = self.orlop.folder("stream") / "big", int(gib * 1024) * MIB
        self.part("streamed in and synced", lambda: self.call("seqwrite", path, 1800, size=size, io=MIB, count=size // MIB)["operations"])
        drop_caches()
        self.part("streamed out", lambda: self.call("seqread", path, 1800, size=size, io=MIB, count=size // MIB)["operations"])


def show(rows):
    print("| part | done | s | peak Rss | peak anonymous | Rss after | anonymous after |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        memory = " | ".join(f"{r[k] / MIB:.1f} MiB" for k in ("peak_rss", "peak_anonymous", "rss_after", "anonymous_after"))
        print(f"| {r['part']} | {r['done']} | {r['seconds']:.0f} | {memory} |")


def main():
    parser = argparse.ArgumentParser(description="The memory of a busy volume's worker")
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    parser.add_argument("--files", type=int, default=1_000_000, help="files to make (default: a million)")
    parser.add_argument("--seconds", type=float, default=360, help="how long they may take to make (default: 360)")
    parser.add_argument("--threads", type=int, default=4, help="how many make files at once (default: 4)")
    parser.add_argument("--stream", type=float, default=10, metavar="GIB", help="data streamed in and out (default: 10)")
    parser.add_argument("--limit", type=int, metavar="MIB", help="memory that the worker's cgroup may take")
    parser.add_argument("--check", action="store_true", help="exit code 1 if the budget is exceeded or something fails")
    parser.add_argument("--dir", metavar="DIR", help="a folder for this run's own folder (default: /var/tmp)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.files < 1 or args.seconds <= 0 or args.stream < 0 or args.threads < 1:
        parser.error("--files, --seconds and --threads are greater than zero")
    need_root()
    busy = failure = None
    with World(args.dir) as world:
        server = Server(world) if args.store == "s3" else None
        orlop = (field.OrlopS3 if args.store == "s3" else field.Orlop)(world, server)
        limit = None
        try:
            driver = compile_driver(world)
            orlop.start()
            busy = Busy(orlop, driver)
            if args.limit:
                limit = Limit(f"orlop-busy-{os.getpid()}", args.limit * MIB)
                limit.move(busy.worker)
            made = busy.files(args.files, args.seconds, args.threads)
            if args.stream:
                busy.stream(args.stream)
            busy.remove(made, args.seconds * 2 + 600)
        except (Failed, OSError) as e:
            failure = str(e)
        finally:
            orlop.end()
            if limit:
                limit.close()
    rows = busy.rows if busy else []
    most = max((r["peak_rss"] for r in rows), default=0)
    good = failure is None and most <= BUDGET
    if args.json:
        print(json.dumps({"machine": machine(), "store": args.store, "limit_mib": args.limit, "rows": rows, "failure": failure}, indent=1))
    else:
        show(rows)
        if failure:
            print(f"\nFAILED: {failure}")
        print(f"\nThe most, {most / MIB:.1f} MiB of {BUDGET // MIB} MiB: {'met' if good else 'MISSED'}.")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    run_program(main)
