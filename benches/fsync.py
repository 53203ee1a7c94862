#!/usr/bin/python3
"""How long an fsync takes on a store that is far away, in round trips.

    benches/fsync.py [--latency MS] [--writers N,...] [--seconds S] [--contestants NAME,...] [--check]

Puts latency before the S3 server and lets writers create, write and sync files of 100 KiB, each its own; divides the
median fsync by the median of a bare PUT of the same size through the same proxy, before and after. A volume whose
writers share commits needs no more than 2.5, however many they are: `--check` makes a higher figure, or a failure,
exit code 1.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
import workloads
from bench import FULL
from common import Failed, World, compile_driver, machine
from program import need_root, run_program, say
from s3 import Server, put_times

TARGET = 2.5
SIZE = 100 << 10


def measure(bench, contestant, latency, writers, seconds, puts):
    """Rows of one contestant: for each number of writers, its fsyncs beside a bare PUT."""
    folder = contestant.folder("fsync")
    bench.drive("folders", folder, count=200)
    contestant.settle()
    contestant.proxy.latency(latency)
    bare_bucket = contestant.server.bucket("bare")
    rows, first = [], 0
    try:
        bench.drive("createsync", folder, count=8, size=SIZE, seconds=seconds)
        first = 8
        for n in writers:
            bare = put_times(contestant.proxy, bare_bucket, puts, SIZE)
            before = contestant.proxy.stats()
            done = bench.drive("createsync", folder, size=SIZE, count=200 * 200 - first, first=first, threads=n, seconds=seconds, seed=n)
            after = contestant.proxy.stats()
            bare += put_times(contestant.proxy, bare_bucket, puts, SIZE)
            if not done["operations"]:
                raise Failed("not one sync in the time")
            first += done["operations"] + n
            put = statistics.median(bare) * 1000
            requests = sum(after["requests"].values()) - sum(before["requests"].values())
            rows.append({
                "writers": n, "syncs": done["operations"], "put_ms": put, "put_p90_ms": sorted(bare)[int(len(bare) * 0.9)] * 1000,
                "fsync_ms": done["p50"] / 1000, "fsync_p90_ms": done["p90"] / 1000, "fsync_p99_ms": done["p99"] / 1000,
                "ratio": done["p50"] / 1000 / put, "files_per_second": done["operations"] / done["seconds"],
                "requests_per_sync": requests / done["operations"],
            })
    finally:
        contestant.proxy.latency(0)
    return rows


def main():
    parser = argparse.ArgumentParser(description="fsync latency on S3, in latencies of a bare PUT")
    parser.add_argument("--latency", type=float, default=20, metavar="MS", help="added before each request (default: 20)")
    parser.add_argument("--writers", default="1,12", metavar="N,...", help="how many write at once (default: 1,12)")
    parser.add_argument("--seconds", type=float, default=20, help="how long each set of writers goes on (default: 20)")
    parser.add_argument("--puts", type=int, default=50, help="bare PUTs before and after each (default: 50)")
    parser.add_argument("--contestants", default="orlop-s3,s3fs", help="those on S3 (default: orlop-s3,s3fs)")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 if Orlop fails or needs more than {TARGET} PUTs")
    parser.add_argument("--dir", metavar="DIR", help="a folder for this run's own folder (default: /var/tmp)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    kinds = {c.name: c for c in (field.OrlopS3, field.S3fs, field.Rclone)}
    names = args.contestants.split(",")
    if unknown := set(names) - set(kinds):
        parser.error(f"not on S3: {', '.join(sorted(unknown))} (there are {', '.join(kinds)})")
    need_root()
    found, good = [], True
    with World(args.dir) as world:
        sizes = workloads.Sizes(**{**FULL.__dict__, "limit": args.seconds + 120})
        bench, server = workloads.Bench(world, compile_driver(world), sizes), Server(world)
        for name in names:
            contestant = kinds[name](world, server)
            say(f"  {contestant.title}")
            try:
                contestant.start()
                rows = measure(bench, contestant, args.latency, [int(n) for n in args.writers.split(",")], args.seconds, args.puts)
            except (Failed, OSError) as e:
                rows = [{"error": str(e)}]
                say(f"    {e}")
            found += [{"contestant": contestant.title, **row} for row in rows]
            if name == "orlop-s3":
                good = all("error" not in row and row["ratio"] <= TARGET for row in rows)
            contestant.end()
    if args.json:
        print(json.dumps({"latency_ms": args.latency, "machine": machine(), "rows": found}, indent=1))
    else:
        print(f"{args.latency:g} ms added to every request; files of {SIZE >> 10} KiB, each created, written and synced.\n")
        print("| contestant | writers | bare PUT, median ms | fsync, median ms | p90 | p99 | in PUTs | files/s | requests per sync |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for row in found:
            if "error" in row:
                print(f"| {row['contestant']} | FAILED: {row['error']} | | | | | | | |")
                continue
            print(f"| {row['contestant']} | {row['writers']} | {row['put_ms']:.1f} | {row['fsync_ms']:.1f} | {row['fsync_p90_ms']:.1f} | "
                  f"{row['fsync_p99_ms']:.1f} | {row['ratio']:.2f} | {row['files_per_second']:.1f} | {row['requests_per_sync']:.2f} |")
        if "orlop-s3" in names:
            print(f"\nTarget: at most {TARGET} PUTs: {'met' if good else 'MISSED'}.")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    run_program(main)
