#!/usr/bin/python3
"""The benchmark: one run that sets up all contestants on one disk, and one table of what they did.

    benches/bench.py [--quick] [--only ROW,...] [--contestants NAME,...] [--rounds N] ...

Run as root, through `./dev bench`, which builds what it needs. docs/BENCHMARKS.md says how to read the result.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
import report
import workloads
from common import HERE, MIB, Failed, PeakMemory, Server, TooLong, World, compile_driver, machine

FULL = workloads.Sizes(files=2000, seconds=3, big=1024 * MIB, tar_files=50_000, git_files=5_000, limit=300)
QUICK = workloads.Sizes(files=200, seconds=0.3, big=128 * MIB, tar_files=500, git_files=200, limit=20)
DOCUMENT = HERE.parent / "docs" / "BENCHMARKS.md"


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_program(main):
    """Ends with what main returns; a failure is one line, and an interruption has its usual code."""
    try:
        sys.exit(main())
    except Failed as e:
        raise SystemExit(f"error: {e}") from None
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been ended")
        sys.exit(130)


class Measure:
    """Puts what one contestant did in one round into the cells."""

    def __init__(self, cells, wanted, contestant, n):
        self.cells, self.wanted, self.contestant, self.n = cells, wanted, contestant, n
        self.slow = 0

    def wants(self, row):
        return row in self.wanted

    def skip(self, row, why):
        if self.wants(row):
            cell = self.cells[row, self.contestant.name]
            cell.error = cell.error or why

    def __call__(self, row, work, before=None):
        """The driver's answer, or None if it failed. A row that nobody wants is done all the same: others need its files."""
        contestant, cell = self.contestant, self.cells[row, self.contestant.name]
        wanted = self.wants(row)
        if not wanted and before:
            return None
        if wanted:
            contestant.settle()
        try:
            if before:
                before()
            counted = contestant.proxy.stats() if contestant.proxy else None
            with PeakMemory(contestant.pids()) as memory:
                sample = work()
            if not sample["operations"]:
                raise Failed("not one operation in the time")
        except Failed as e:
            if isinstance(e, TooLong):
                self.slow += 1
            cell.error = cell.error or str(e)
            return None
        if not wanted:
            return sample
        sample |= {"peak_rss": memory.rss or None, "peak_anonymous": memory.anonymous or None}
        if counted:
            contestant.settle()
            after = contestant.proxy.stats()
            requests = {k: v - counted["requests"].get(k, 0) for k, v in after["requests"].items()}
            amount = sample["bytes"] / MIB if cell.row.unit == "MiB" else sample["operations"]
            sample |= {
                "requests": {k: v for k, v in requests.items() if v},
                "requests_per_op": sum(requests.values()) / amount,
                "bytes_up": after["bytes_up"] - counted["bytes_up"],
                "bytes_down": after["bytes_down"] - counted["bytes_down"],
            }
        if self.n >= 0:
            cell.samples.append(sample)
        return sample


def run_group(bench, group, everyone, wanted, cells, rounds):
    """Prepares a group for every contestant, then runs its rounds in turn; the first, which warms up, is discarded."""
    rows = [r.key for r in group.rows]

    def fail(contestant, error):
        for row in rows:
            cell = cells[row, contestant.name]
            cell.error = cell.error or str(error)

    runners = []
    for contestant in everyone:
        try:
            group.prepare(bench, contestant)
            contestant.settle()
            runners.append(contestant)
        except (Failed, OSError) as e:
            say(f"    {contestant.title}: {e}")
            fail(contestant, f"preparing: {e}")
    slow = {c.name: 0 for c in runners}
    for n in range(-1, rounds):
        say(f"  {group.key}: {'warm-up' if n < 0 else f'round {n + 1} of {rounds}'}")
        turn = max(n, 0) % len(runners) if runners else 0
        for contestant in runners[turn:] + runners[:turn]:
            # One that hangs again and again would hold up everybody.
            if slow[contestant.name] >= 2:
                continue
            measure = Measure(cells, wanted, contestant, n)
            before = {row: cells[row, contestant.name].error for row in rows}
            try:
                group.round(bench, contestant, n, measure)
            except (Failed, OSError) as e:
                measure.slow += isinstance(e, TooLong)
                fail(contestant, e)
            slow[contestant.name] += measure.slow
            for row in rows:
                error = cells[row, contestant.name].error
                if row in wanted and error and not before[row]:
                    say(f"    {contestant.title}, {row}: {error}")


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measures Orlop beside a native folder, a null FUSE file "
                                     "system, s3fs and rclone; docs/BENCHMARKS.md says how.")
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds: does it all work? The figures mean nothing")
    parser.add_argument("--only", metavar="ROW,...", help="these rows or groups alone; --list names them")
    parser.add_argument("--contestants", metavar="NAME,...", default=",".join(field.DEFAULT),
                        help=f"of {','.join(c.name for c in field.ALL)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds that count (default: 5, with --quick 2)")
    parser.add_argument("--threads", default="1", metavar="N,...", help="threads of the small operations: 1,8,64 gives three sets of rows")
    for name in ("files", "tar-files", "git-files"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"default: {getattr(FULL, name.replace('-', '_')):,}")
    parser.add_argument("--big", type=int, metavar="MIB", help="size of the big file; half of it is the memory limit")
    parser.add_argument("--seconds", type=float, help="the longest time of one measurement of small operations")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="when one measurement is given up")
    parser.add_argument("--dir", metavar="DIR", help="the disk to use: a folder for the run's own folder (default: /var/tmp)")
    parser.add_argument("--out", metavar="DIR", help="where the table and the figures are written")
    parser.add_argument("--record", action="store_true", help="put the table into docs/BENCHMARKS.md too")
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
    try:
        groups = workloads.groups(sorted({int(n) for n in args.threads.split(",")}))
    except ValueError:
        parser.error(f"--threads {args.threads}: numbers with commas between them")
    rows = [row for group in groups for row in group.rows]
    known = {row.key for row in rows} | {group.key for group in groups}
    only = set(args.only.split(",")) if args.only else known
    if unknown := only - known:
        parser.error(f"no such workload: {', '.join(sorted(unknown))} (there are {', '.join(sorted(known))})")
    wanted = {row.key for group in groups for row in group.rows if row.key in only or group.key in only}
    by_name = {c.name: c for c in field.ALL}
    names = args.contestants.split(",")
    if unknown := set(names) - set(by_name):
        parser.error(f"no such contestant: {', '.join(sorted(unknown))} (there are {', '.join(by_name)})")
    return sizes, groups, wanted, [by_name[name] for name in names]


def disk(folder):
    out = subprocess.run(["findmnt", "-no", "FSTYPE,SOURCE", "-T", folder], capture_output=True, text=True).stdout.split()
    return " on ".join(out) or "an unknown disk"


def record(text):
    """Puts a table at the top of those in the document."""
    document = DOCUMENT.read_text()
    mark = "<!-- tables, the newest first -->\n"
    if mark not in document:
        raise SystemExit(f"error: {DOCUMENT} has no line {mark.strip()}")
    DOCUMENT.write_text(document.replace(mark, f"{mark}\n{text}", 1))


def main():
    parser, args = arguments()
    sizes, groups, wanted, kinds = choose(parser, args)
    if args.list:
        print("contestants:", ", ".join(c.name for c in field.ALL))
        for group in groups:
            print(f"{group.key}:", ", ".join(row.key for row in group.rows))
        return 0
    if os.geteuid() != 0:
        raise SystemExit("error: it mounts file systems and drops the page cache: run it as root")
    rounds = args.rounds or (2 if args.quick else 5)
    began = time.monotonic()
    groups = [g for g in groups if any(r.key in wanted for r in g.rows)]
    rows = [r for g in groups for r in g.rows]
    cells = {(r.key, c.name): report.Cell(r) for r in rows for c in kinds}
    result = {
        "date": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        "revision": subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip() or "unknown",
        "machine": machine(), "versions": field.versions(), "sizes": sizes.describe(), "rounds": rounds,
        "warning": "quick: the figures mean nothing" if args.quick else None,
    }
    with World(args.dir, args.keep) as world:
        result["disk"] = disk(world.path)
        bench = workloads.Bench(world, compile_driver(world), sizes)
        try:
            server = Server(world)
        except Failed as e:
            say(f"  no S3 server: {e}")
            server = None
        everyone, running = [kind(world, server) for kind in kinds], []
        for contestant in everyone:
            say(f"  starting {contestant.title}")
            try:
                contestant.start()
                running.append(contestant)
            except (Failed, OSError) as e:
                say(f"    {e}")
                for row in rows:
                    cells[row.key, contestant.name].error = f"did not start: {e}"
        for group in groups:
            run_group(bench, group, running, wanted, cells, rounds)
    result["seconds"] = time.monotonic() - began
    rows = [r for r in rows if r.key in wanted]
    text = report.markdown(result, rows, everyone, cells)
    result["cells"] = [
        {"row": r.key, "title": r.title, "cache": r.cache, "unit": r.unit, "contestant": c.name, "durable": report.letter(r, c) or None,
         "median": cells[r.key, c.name].median(), "error": cells[r.key, c.name].error, "samples": cells[r.key, c.name].samples}
        for r in rows for c in everyone
    ]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orlop"
    out = Path(args.out) if args.out else cache / "bench" / time.strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text)
    (out / "figures.json").write_text(json.dumps(result, indent=1))
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
