#!/usr/bin/python3
"""The benchmark: one run that sets up all contestants on one disk, and one table of what they did.

    benches/bench.py [--quick] [--only ROW,...] [--contestants NAME,...] [--rounds N] ...

Run as root, through `./dev bench`, which builds what it needs. docs/BENCHMARKS.md says how to read the result.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
import report
import workloads
from common import MIB, World, compile_driver
from program import about, add_places, disk, need_root, numbers, out_folder, record, run_program, say, write
from rounds import run_group, start, start_server

FULL = workloads.Sizes(files=2000, seconds=3, big=1024 * MIB, tar_files=50_000, git_files=5_000, limit=300)
QUICK = workloads.Sizes(files=200, seconds=0.3, big=128 * MIB, tar_files=500, git_files=200, limit=20)


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measures Orlop beside a native folder, a null FUSE file "
                                     "system, s3fs and rclone; docs/BENCHMARKS.md says how.")
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds: does it all work? The figures mean nothing")
    parser.add_argument("--only", metavar="ROW,...", help="these rows or groups alone; --list names them")
    parser.add_argument("--contestants", metavar="NAME,...", type=field.named, default=field.ALL,
                        help=f"of {','.join(c.name for c in field.ALL)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds that count (default: 5, with --quick 2)")
    parser.add_argument("--threads", type=numbers, default=[1], metavar="N,...", help="threads of the small operations: 1,8,64 gives three sets of rows")
    for name in ("files", "tar-files", "git-files"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"default: {getattr(FULL, name.replace('-', '_')):,}")
    parser.add_argument("--big", type=int, metavar="MIB", help="size of the big file; half of it is the memory limit")
    parser.add_argument("--seconds", type=float, help="the longest time of one measurement of small operations")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="when one measurement is given up")
    add_places(parser)
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs behind")
    parser.add_argument("--list", action="store_true", help="name the rows and contestants, and end")
    return parser, parser.parse_args()


def choose(parser, args):
    sizes = workloads.Sizes(**(QUICK if args.quick else FULL).__dict__)
    for key in ("files", "tar_files", "git_files", "seconds", "limit"):
        if (value := getattr(args, key)) is not None:
            setattr(sizes, key, value)
    if args.big is not None:
        sizes.big = args.big * MIB
    if min(sizes.files, sizes.tar_files, sizes.git_files, sizes.big, sizes.seconds, sizes.limit) <= 0 or (args.rounds or 1) < 1:
        parser.error("sizes, times and rounds are greater than zero")
    groups = workloads.groups(args.threads)
    rows = [row for group in groups for row in group.rows]
    known = {row.key for row in rows} | {group.key for group in groups}
    only = set(args.only.split(",")) if args.only else known
    if unknown := only - known:
        parser.error(f"no such workload: {', '.join(sorted(unknown))} (there are {', '.join(sorted(known))})")
    wanted = {row.key for group in groups for row in group.rows if row.key in only or group.key in only}
    return sizes, groups, wanted


def main():
    parser, args = arguments()
    sizes, groups, wanted = choose(parser, args)
    kinds = args.contestants
    if args.list:
        print("contestants:", ", ".join(c.name for c in field.ALL))
        for group in groups:
            print(f"{group.key}:", ", ".join(row.key for row in group.rows))
        return 0
    need_root()
    rounds = args.rounds or (2 if args.quick else 5)
    began = time.monotonic()
    groups = [g for g in groups if any(r.key in wanted for r in g.rows)]
    rows = [r for g in groups for r in g.rows]
    cells = {(r.key, c.name): report.Cell(r) for r in rows for c in kinds}
    result = {
        **about(), "versions": field.versions(), "sizes": sizes.describe(), "rounds": rounds,
        "warning": "quick: the figures mean nothing" if args.quick else None,
    }
    with World(args.dir, args.keep) as world:
        result["disk"] = disk(world.path)
        bench = workloads.Bench(world, compile_driver(world), sizes)
        server = start_server(world, kinds)
        everyone = [kind(world, server) for kind in kinds]
        running = start(everyone, rows, cells)
        try:
            for group in groups:
                run_group(bench, group, running, wanted, cells, rounds)
        except KeyboardInterrupt:
            # Hours of measuring are not given away for the last group.
            say("interrupted: the table shows what was measured until now")
            result["warning"] = "interrupted: not all rounds were measured"
    result["seconds"] = time.monotonic() - began
    rows = [r for r in rows if r.key in wanted]
    text = report.markdown(result, rows, everyone, cells)
    result["cells"] = [
        {"row": r.key, "title": r.title, "cache": r.cache, "unit": r.unit, "contestant": c.name, "durable": report.letter(r, c) or None,
         "median": cells[r.key, c.name].median(), "error": cells[r.key, c.name].error, "samples": cells[r.key, c.name].samples}
        for r in rows for c in everyone
    ]
    out = out_folder(args.out, "bench")
    write(out, text, result)
    print(text)
    if args.record:
        record(text)
    say(f"table and figures: {out}")
    broken = sorted({f"{c.title}: {r.key}" for r in rows for c in everyone if cells[r.key, c.name].error})
    if broken:
        say(f"{len(broken)} cells failed: {'; '.join(broken[:8])}{' ...' if len(broken) > 8 else ''}")
    return 0


if __name__ == "__main__":
    run_program(main)
