#!/usr/bin/python3
"""What volumes cost that are attached and not used: memory, requests to the store, processor time.

    benches/idle.py [--volumes N] [--seconds S] [--stores local,s3] [--touch] [--check]

Attaches volumes, waits, and reports: memory of each worker (what `ps` shows, and its fair share of what processes have in
common, "Pss", which is what counts when there are a hundred), of the daemon and the keeper, of all; and the requests that reach the store in
the meantime. Budgets: 16 MiB a volume, 2 GiB for a hundred in all. `--check` makes more than that exit code 1.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
from common import MIB, Failed, World, machine, rollup, run
from program import need_root, run_program, say
from s3 import Server, passed

PER_VOLUME = 16 * MIB
PER_HUNDRED = 2048 * MIB


def ticks(pid):
    """Processor time of a process, in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Many:
    """Volumes of one store, under one daemon, in a contestant's folder."""

    def __init__(self, contestant, count):
        self.contestant, self.count, self.took = contestant, count, []

    def start(self, touch):
        orlop = self.contestant
        orlop.start()
        options = ["-o", "store=bench-s3"] if isinstance(orlop, field.OrlopS3) else []
        # The contestant's own volume is the first of them.
        for i in range(1, self.count):
            name, point = f"idle{i}", orlop.home / f"mnt{i}"
            point.mkdir()
            orlop.orlop("volume", "create", name, *options, timeout=120)
            since = time.monotonic()
            orlop.orlop("mount", name, point, timeout=120)
            self.took.append(time.monotonic() - since)
        for i in range(self.count if touch else 0):
            point = orlop.point if i == 0 else orlop.home / f"mnt{i}"
            run(["dd", "if=/dev/urandom", f"of={point}/used-once", "bs=64k", "count=1", "conv=fsync", "status=none"], timeout=60)

    def look(self, seconds):
        orlop = self.contestant
        workers = orlop.pids()
        others = [pid for pid in orlop.all_pids() if pid not in workers]
        if len(workers) != self.count:
            raise Failed(f"{len(workers)} workers for {self.count} volumes")
        orlop.settle()
        before, used = orlop.proxy.stats() if orlop.proxy else None, {pid: ticks(pid) for pid in workers + others}
        began = time.monotonic()
        while (left := seconds - (time.monotonic() - began)) > 0:
            say(f"    idle, {left:.0f} s to go")
            time.sleep(min(left, 60))
        minutes = (time.monotonic() - began) / 60
        after = orlop.proxy.stats() if orlop.proxy else None
        processor = sum(ticks(pid) - used[pid] for pid in used)
        own = [rollup(pid) for pid in workers]
        if missing := sum(1 for r in own if not r):
            raise Failed(f"{missing} workers ended while idle")
        rest = [rollup(pid) for pid in others]
        total = sum(r.get("Pss", 0) for r in own + rest)
        out = {
            "store": "S3" if orlop.proxy else "local", "volumes": self.count, "seconds": minutes * 60,
            "attach_ms": statistics.median(self.took) * 1000 if self.took else None,
            "worker_rss": statistics.median(r["Rss"] for r in own), "worker_pss": statistics.median(r["Pss"] for r in own),
            "worker_pss_most": max(r["Pss"] for r in own), "worker_anonymous": statistics.median(r["Anonymous"] for r in own),
            "others_pss": sum(r.get("Pss", 0) for r in rest), "total_pss": total,
            "processor_ms_per_minute": processor * 1000 / minutes,
            "requests_per_minute": None, "requests": None,
        }
        if before:
            out["requests"] = passed(before, after)["requests"]
            out["requests_per_minute"] = sum(out["requests"].values()) / minutes
        out["good"] = max(out["worker_pss_most"], out["worker_rss"]) <= PER_VOLUME and total <= PER_HUNDRED * max(1, self.count / 100)
        return out


def show(rows):
    print("| store | volumes | attach, median ms | worker Rss | Pss, median (most) | anonymous | daemon + keeper | all, Pss | "
          "processor ms/min | requests/min | of a volume |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")

    def mib(n):
        return f"{n / MIB:.1f} MiB"

    for r in rows:
        if "error" in r:
            print(f"| {r['store']} | FAILED: {r['error']} | | | | | | | | | |")
            continue
        attach = "-" if r["attach_ms"] is None else f"{r['attach_ms']:.0f}"
        rate, each = "-", "-"
        if r["requests_per_minute"] is not None:
            rate, each = f"{r['requests_per_minute']:.1f}", f"{r['requests_per_minute'] / r['volumes']:.2f}"
        print(f"| {r['store']} | {r['volumes']} | {attach} | {mib(r['worker_rss'])} | {mib(r['worker_pss'])} ({mib(r['worker_pss_most'])}) | "
              f"{mib(r['worker_anonymous'])} | {mib(r['others_pss'])} | {mib(r['total_pss'])} | {r['processor_ms_per_minute']:.0f} | {rate} | {each} |")
    for r in rows:
        if r.get("requests"):
            print(f"\n{r['store']}: " + ", ".join(f"{v} {k}" for k, v in sorted(r["requests"].items())) + f" in {r['seconds']:.0f} s")


def main():
    parser = argparse.ArgumentParser(description="The cost of attached volumes that nobody uses")
    parser.add_argument("--volumes", type=int, default=100, help="how many on each store (default: 100)")
    parser.add_argument("--seconds", type=float, default=300, help="how long they idle (default: 300)")
    parser.add_argument("--stores", default="local,s3", help="local, s3 or both (default)")
    parser.add_argument("--touch", action="store_true", help="write one file into each before")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a budget is exceeded or something fails")
    parser.add_argument("--dir", metavar="DIR", help="a folder for this run's own folder (default: /var/tmp)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    kinds = {"local": field.Orlop, "s3": field.OrlopS3}
    names = args.stores.split(",")
    if set(names) - set(kinds) or args.volumes < 1 or args.seconds <= 0:
        parser.error("--stores takes local and s3; --volumes and --seconds are greater than zero")
    need_root()
    rows = []
    with World(args.dir) as world:
        server = Server(world) if "s3" in names else None
        for name in names:
            contestant = kinds[name](world, server)
            say(f"  attaching {args.volumes} volumes on {name}")
            try:
                many = Many(contestant, args.volumes)
                many.start(args.touch)
                rows.append(many.look(args.seconds))
            except (Failed, OSError) as e:
                say(f"    {e}")
                rows.append({"store": name, "error": str(e), "good": False})
            contestant.end()
    good = all(r["good"] for r in rows)
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    else:
        show(rows)
        print(f"\nBudgets, {PER_VOLUME // MIB} MiB a volume and {PER_HUNDRED // MIB} MiB a hundred: {'met' if good else 'MISSED'}.")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    run_program(main)
