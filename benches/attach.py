#!/usr/bin/python3
"""How long a volume with very many files takes from `orlop mount` to the first answer.

    benches/attach.py [--files N] [--stores local,s3] [--latency MS] [--rounds N] [--check]

Makes the files (100 bytes each), unmounts, and times mounting until a `stat` of one of the files has answered, again and
again: each time with a new worker and the page cache dropped; on S3 with latency before the server, on the host that
made the files and on an Orlop that has never had the volume. A round trip is a bare PUT of 4 KiB through the same proxy.
Targets: 1 s on the local store, 5 round trips and 1 s on S3. `--check` makes more, or a failure, exit code 1.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
import workloads
from bench import FULL
from common import Failed, World, compile_driver, drop_caches, machine, run
from elsewhere import Elsewhere
from program import need_root, run_program, say
from s3 import Server, passed, put_times
from workloads import PER_FOLDER, SMALL

SIZE = 100
LOCAL_SECONDS = 1.0
FAR_ROUND_TRIPS, FAR_SECONDS = 5, 1.0
PUTS = 30


def fill(bench, orlop, files, threads):
    """Makes the files and brings all to rest; how long that took."""
    folder, since = orlop.folder("files"), time.monotonic()
    bench.folders(folder, files)
    made = bench.drive("create", folder, count=files, size=SIZE, threads=threads)["operations"]
    if made != files:
        raise Failed(f"{made} of {files} files were made")
    orlop.unmount()
    return time.monotonic() - since


def attach(orlop, files, n):
    """Seconds until it is mounted, and until one file of it has answered; with what that took of the store."""
    if orlop.pids():
        raise Failed("a worker is there already")
    # Another one each time, far from the others.
    index = (n + 1) * 7919 * PER_FOLDER % files
    path = orlop.point / "files" / f"d{index // PER_FOLDER:04}" / f"{index:06}.f"
    drop_caches()
    before = orlop.proxy.stats() if orlop.proxy else None
    since = time.monotonic()
    orlop.mount()
    mounted = time.monotonic() - since
    # By another process: one that hangs in the mount does not hang this program.
    size = run(["stat", "-c", "%s", path], timeout=120).strip()
    took = time.monotonic() - since
    if size != str(SIZE):
        raise Failed(f"{path.name} has {size} bytes, not {SIZE}")
    sample = {"mounted": mounted, "seconds": took}
    if before:
        sample |= passed(before, orlop.proxy.stats())
    leave(orlop, n)
    return sample


def leave(orlop, n):
    """A volume that is mounted is also written to: none of the rounds meets one that only ever was mounted."""
    run(["touch", orlop.point / f"round-{n}"], timeout=120)
    orlop.unmount()


def here(orlop, files, rounds):
    """On the host that made the files."""
    return [attach(orlop, files, n) for n in range(rounds)]


def on_others(orlop, files, rounds, latency):
    """Each time on an Orlop that has never had the volume; what it does before the mount is not counted."""
    samples = []
    for n in range(rounds):
        other = Elsewhere(orlop)
        try:
            other.start()
            with other.proxy.delayed(latency):
                samples.append(attach(other, files, n))
        finally:
            other.clear()
    return samples


def row(store, where, latency, samples, target, trip=None):
    middle = {key: statistics.median(s[key] for s in samples) for key in ("mounted", "seconds")}
    most = max(s["seconds"] for s in samples)
    return {"store": store, "where": where, "latency_ms": latency, "round_trip_ms": trip, "target": target, **middle, "most": most,
            "good": target is None or middle["seconds"] <= target, "samples": samples,
            "requests": statistics.median(sum(s["requests"].values()) for s in samples) if trip else None}


def measure_local(orlop, files, rounds):
    return [row("local", "this host", 0, here(orlop, files, rounds), LOCAL_SECONDS)]


def measure_s3(orlop, files, rounds, latency):
    """Without latency too: the difference tells how many round trips follow each other."""
    bucket, rows = orlop.server.bucket("bare"), []
    for added in (0, latency):
        with orlop.proxy.delayed(added):
            trip = statistics.median(put_times(orlop.proxy, bucket, PUTS, SMALL))
            same = here(orlop, files, rounds)
        other = on_others(orlop, files, rounds, added)
        target = FAR_ROUND_TRIPS * trip + FAR_SECONDS if added else None
        rows += [row("S3", "this host", added, same, target, trip * 1000), row("S3", "another root", added, other, target, trip * 1000)]
    for near, far in zip(rows[:2], rows[2:]):
        far["serial"] = (far["seconds"] - near["seconds"]) * 1000 / (far["round_trip_ms"] - near["round_trip_ms"])
    return rows


def show(files, rows):
    print(f"{files:,} files of {SIZE} bytes; page cache dropped, a new worker each time.\n")
    print("| store | where | latency, ms | round trip, ms | mounted, s | first stat, s | slowest | in round trips | that follow each other | requests | target, s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        if "error" in r:
            print(f"| {r['store']} | FAILED: {r['error']} | | | | | | | | | |")
            continue
        trip = r["round_trip_ms"]
        cells = [f"{r['latency_ms']:g}", f"{trip:.1f}" if trip else "-", f"{r['mounted']:.3f}", f"{r['seconds']:.3f}", f"{r['most']:.3f}",
                 f"{r['seconds'] * 1000 / trip:.1f}" if trip else "-", f"{r['serial']:.1f}" if "serial" in r else "-",
                 f"{r['requests']:.0f}" if trip else "-", f"{r['target']:.3f}" if r["target"] else "-"]
        print(f"| {r['store']} | {r['where']} | " + " | ".join(cells) + " |")


def arguments():
    parser = argparse.ArgumentParser(prog="benches/attach.py", description="From `orlop mount` to the first answer of a volume with very many files")
    parser.add_argument("--files", type=int, default=1_000_000, help="default: a million")
    parser.add_argument("--stores", default="local,s3", help="local, s3 or both (default)")
    parser.add_argument("--latency", type=float, default=20, metavar="MS", help="added before each request to S3 (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is mounted (default: 5)")
    parser.add_argument("--threads", type=int, default=8, help="how many make files at once (default: 8)")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed or something fails")
    parser.add_argument("--dir", metavar="DIR", help="a folder for this run's own folder (default: /var/tmp)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    names = args.stores.split(",")
    if set(names) - {"local", "s3"} or args.files < 1 or args.rounds < 1 or args.threads < 1 or args.latency <= 0:
        parser.error("--stores takes local and s3; --files, --rounds, --threads and --latency are greater than zero")
    return args, names


def main():
    args, names = arguments()
    need_root()
    rows = []
    with World(args.dir) as world:
        sizes = workloads.Sizes(**{**FULL.__dict__, "limit": 300 + args.files / 200})
        bench, server = workloads.Bench(world, compile_driver(world), sizes), Server(world) if "s3" in names else None
        for name in names:
            orlop = (field.OrlopS3 if name == "s3" else field.Orlop)(world, server)
            say(f"  {orlop.title}: making {args.files:,} files")
            try:
                orlop.start()
                say(f"    {fill(bench, orlop, args.files, args.threads):.0f} s")
                rows += measure_s3(orlop, args.files, args.rounds, args.latency) if name == "s3" else measure_local(orlop, args.files, args.rounds)
            except (Failed, OSError) as e:
                say(f"    {e}")
                rows.append({"store": name, "error": str(e), "good": False})
            orlop.clear()
    good = all(r["good"] for r in rows)
    if args.json:
        print(json.dumps({"machine": machine(), "files": args.files, "rows": rows}, indent=1))
    else:
        show(args.files, rows)
        print(f"\nTargets, {LOCAL_SECONDS:g} s on the local store and {FAR_ROUND_TRIPS} round trips and {FAR_SECONDS:g} s on S3: "
              f"{'met' if good else 'MISSED'}.")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    run_program(main)
