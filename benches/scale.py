#!/usr/bin/python3
"""How the operations on small files go with the number of files and of threads: one table and one plot for each number of threads.

    benches/scale.py [--files N,...] [--threads N,...] [--contestants NAME,...] [--quick] [--record] ...
    benches/scale.py --from FIGURES.json [--from FIGURES.json ...] [--record]

For each number of files and of threads all contestants start anew, make the files, and use them. Run as root, through
`./dev bench --scale`, which builds what it needs. docs/BENCHMARKS.md says how to read the result.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contestants as field
import report
import scale_report
from common import MIB, Failed, World, compile_driver, drop_caches, run
from program import DOCUMENT, about, add_places, disk, need_root, numbers, out_folder, record, run_program, say, write
from rounds import run_group, start, start_server
from workloads import PER_FOLDER, Bench, Group, Row

DEFAULT = "native,null-fast,orlop,orlop-strict"
PLOTS = DOCUMENT.parent / "plots"
MARK = "<!-- scale, the newest first -->\n"
HOT_SECONDS = 3
CLEANERS = 64


@dataclass
class Plan:
    """What is measured, and how long at most."""

    files: list
    threads: list
    kinds: list
    size: int
    seconds: float
    rounds: int | None
    # When an operation that hangs is given up, after its time; the name is what Bench looks for.
    limit: float = 300

    def rounds_of(self, files):
        """(rounds that count, whether one before them is discarded): many files need no repetition to be many samples."""
        return self.rounds or (1 if files >= 1_000_000 else 3 if files >= 10_000 else 5), files < 100_000


class Round:
    """The files of one contestant in one round, from their making to their end."""

    def __init__(self, group, bench, folder, n, measure):
        self.bench, self.folder, self.measure, self.plan = bench, folder, measure, group.plan
        self.wanted, self.made = group.files, 0
        self.settings = {"threads": group.threads, "size": self.plan.size, "seed": n + 2, "seconds": self.plan.seconds}

    def step(self, row, operation, whole, before=None, **more):
        """How many operations one row came to; of the sample, how many files there were and whether the time ended it."""
        sample = self.measure(row, lambda: self.bench.drive(operation, self.folder, **{**self.settings, **more}), before=before)
        if not sample:
            return 0
        sample |= {"in_place": self.made or sample["operations"], "stopped": sample["operations"] < whole}
        return sample["operations"]

    def make(self):
        self.bench.folders(self.folder, self.wanted)
        self.made = self.step("create", "create", self.wanted, count=self.wanted)
        return self.made

    def use(self, operation):
        """Each file once, cold; then those that are hot by that."""
        done = self.step(f"{operation}-cold", operation, self.made, before=drop_caches, count=self.made, files=self.made)
        if not done:
            self.measure.skip(f"{operation}-hot", "nothing was read before")
            return
        # What is over at once says nothing: where all are hot they are asked for again and again.
        count = 1 << 30 if done == self.made else done
        self.step(f"{operation}-hot", operation, 1, count=count, files=self.made, seconds=min(HOT_SECONDS, self.plan.seconds / 10))

    def list(self):
        self.step("readdir-cold", "readdir", self.made, before=drop_caches, count=-(-self.made // PER_FOLDER), files=self.made)

    def rename_and_remove(self):
        """How many have another name, and how many of these are no more."""
        renamed = self.step("rename", "rename", self.made, count=self.made)
        if not renamed:
            self.measure.skip("unlink", "nothing was renamed")
            return 0, 0
        return renamed, self.step("unlink", "unlink", self.made, count=renamed, suffix="r")

    def empty(self, renamed, removed):
        """What the time did not allow to be removed must not be there in the next round."""
        for suffix, first, end in (("r", removed, renamed), ("f", renamed, self.made)):
            if first < end:
                self.bench.drive("unlink", self.folder, first=first, count=end - first, suffix=suffix, threads=CLEANERS)
        run(["rm", "-rf", self.folder], timeout=self.plan.limit)


class Files(Group):
    key = "files"
    rows = [
        Row("create", "create + write + close", "ops", "-", "closed"),
        Row("stat-cold", "stat", "ops", "page cache dropped", "read"),
        Row("stat-hot", "stat, second time", "ops", "hot", "read"),
        Row("openread-cold", "open + read + close", "ops", "page cache dropped", "read"),
        Row("openread-hot", "open + read + close", "ops", "hot", "read"),
        Row("readdir-cold", "list folders, names", "names", "page cache dropped", "read"),
        Row("rename", "rename", "ops", "-", "closed"),
        Row("unlink", "unlink", "ops", "-", "closed"),
    ]

    def __init__(self, plan, files, threads):
        self.plan, self.files, self.threads = plan, files, threads
        self.rounds, self.warm_up = plan.rounds_of(files)

    def prepare(self, bench, contestant):
        contestant.folder(self.key)

    def round(self, bench, contestant, n, measure):
        it = Round(self, bench, contestant.folder(self.key, f"r{n + 1}"), n, measure)
        if not it.make():
            for row in self.rows[1:]:
                measure.skip(row.key, "nothing was created")
            return
        it.use("stat")
        it.use("openread")
        it.list()
        left = it.rename_and_remove()
        if n + 1 < self.rounds:
            it.empty(*left)


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench --scale", description="Measures the operations on small files at several "
                                     "numbers of files and threads; docs/BENCHMARKS.md says how.")
    parser.add_argument("--quick", "--check-only", action="store_true",
                        help="200 files, 1 and 4 threads: does it all work? The figures mean nothing; exit code 1 if a cell failed")
    parser.add_argument("--files", type=numbers, metavar="N,...", help="numbers of files (default: 1000,100000,1000000)")
    parser.add_argument("--threads", type=numbers, metavar="N,...", help="numbers of threads (default: 1,8,64)")
    parser.add_argument("--contestants", type=field.named, default=DEFAULT, metavar="NAME,...",
                        help=f"of {','.join(c.name for c in field.ALL)} (default: {DEFAULT})")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="rounds that count (default: 5 below 10,000 files, 1 from a million on, else 3)")
    parser.add_argument("--size", type=int, default=4096, metavar="BYTES", help="of each file (default: 4096)")
    parser.add_argument("--seconds", type=float, help="the longest time of one measurement (default: 600)")
    parser.add_argument("--from", dest="saved", action="append", metavar="FILE",
                        help="measure nothing: take the figures that an earlier run has written; of several, a later one's cells count")
    add_places(parser)
    args = parser.parse_args()
    if (args.rounds or 1) < 1 or args.size < 1 or (args.seconds or 1) <= 0:
        parser.error("sizes, times and rounds are greater than zero")
    if args.quick and args.record:
        parser.error("what --quick measures means nothing: it is not recorded")
    return args


def choose(args):
    files, threads, seconds = ([200], [1, 4], 5) if args.quick else ([1000, 100_000, 1_000_000], [1, 8, 64], 600)
    return Plan(args.files or files, args.threads or threads, args.contestants, args.size, args.seconds or seconds,
                args.rounds or (1 if args.quick else None))


def check_room(plan, folder):
    """One after the other has its files on the disk, some as journal and as chunks; one whose time was up leaves them there."""
    need, free = 3 * max(plan.files) * max(plan.size, 4096), shutil.disk_usage(folder).free
    if need > free:
        raise Failed(f"{max(plan.files):,} files may need {need // MIB:,} MiB; {free // MIB:,} are free: fewer --files, or another --dir")


def figures(group, cells, everyone):
    """The cells of one number of files and threads, as they are written down."""
    found = []
    for row in group.rows:
        for contestant in everyone:
            cell = cells[row.key, contestant.name]
            measured = cell.median() is not None
            found.append({
                "files": group.files, "threads": group.threads, "row": row.key, "contestant": contestant.name,
                "rounds": len(cell.samples), "warm_up": group.warm_up, "durable": report.letter(row, contestant) or None,
                "median": cell.median(), "spread": cell.spread() if measured else None, "error": cell.error,
                "in_place": min(s["in_place"] for s in cell.samples) if measured else None,
                "stopped": any(s["stopped"] for s in cell.samples),
                **{k: cell.middle(k) for k in ("peak_rss", "peak_anonymous", "requests_per_op")}, "samples": cell.samples,
            })
    return found


def measure_set(bench, server, plan, files, threads):
    """All contestants, started anew: neither their memory nor their files are those of another set."""
    say(f"{files:,} files, {threads} threads")
    group = Files(plan, files, threads)
    cells = {(r.key, k.name): report.Cell(r) for r in group.rows for k in plan.kinds}
    everyone = [kind(bench.world, server) for kind in plan.kinds]
    running = start(everyone, group.rows, cells)
    run_group(bench, group, running, {r.key for r in group.rows}, cells, group.rounds, group.warm_up)
    for contestant in everyone:
        try:
            contestant.clear()
        except Failed as e:
            say(f"  {e}")  # so it cannot start anew, and the cells of the next set say that
    return figures(group, cells, everyone)


def measure(plan, args, out):
    """The result of a run. It is written after each set: a run of hours that is interrupted has its figures."""
    began = time.monotonic()
    run_about = {**about(), "size": plan.size, "limit": plan.seconds, "quick": args.quick, "versions": field.versions()}
    result = {"runs": [run_about], "cells": []}
    with World(args.dir) as world:
        run_about["disk"] = disk(world.path)
        check_room(plan, world.path)
        bench = Bench(world, compile_driver(world), plan)
        server = start_server(world, plan.kinds)
        for files in plan.files:
            for threads in plan.threads:
                result["cells"] += measure_set(bench, server, plan, files, threads)
                run_about["seconds"] = time.monotonic() - began
                publish(result, out)
    return result


def merge(paths):
    """The figures of several runs as those of one."""
    runs, cells = [], {}
    for path in paths:
        try:
            saved = json.loads(Path(path).read_text())
            runs += saved["runs"]
            cells |= {(c["threads"], c["files"], c["row"], c["contestant"]): c for c in saved["cells"]}
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise Failed(f"{path}: no figures of this benchmark ({e})") from None
    return {"runs": runs, "cells": list(cells.values())}


def draw(result, folder, prefix):
    """Writes a plot for each number of threads; their names."""
    names = {}
    for threads, svg in scale_report.plots(result, Files.rows).items():
        names[threads] = f"{prefix}-{threads}t.svg"
        (folder / names[threads]).write_text(svg)
    return names


def publish(result, out):
    text = scale_report.markdown(result, Files.rows, draw(result, out, "scale"))
    write(out, text, result)
    return text


def put_on_record(result):
    PLOTS.mkdir(exist_ok=True)
    # With the time in their names: a later run must not change the plots of an earlier table.
    time_of = result["runs"][-1]["date"].replace(" ", "-").replace(":", "")
    names = draw(result, PLOTS, f"scale-{time_of}")
    record(scale_report.markdown(result, Files.rows, {threads: f"plots/{name}" for threads, name in names.items()}), MARK)


def main():
    args = arguments()
    out = out_folder(args.out, "scale")
    if args.saved:
        result = merge(args.saved)
    else:
        need_root()
        result = measure(choose(args), args, out)
    print(publish(result, out))
    if args.record:
        put_on_record(result)
    say(f"table, figures and plots: {out}")
    broken = [f"{c['contestant']}: {c['row']} at {c['files']:,} files" for c in result["cells"] if c["error"]]
    if broken:
        say(f"{len(broken)} cells failed: {'; '.join(broken[:8])}{' ...' if len(broken) > 8 else ''}")
    return 1 if broken and args.quick else 0


if __name__ == "__main__":
    run_program(main)
