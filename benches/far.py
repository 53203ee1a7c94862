#!/usr/bin/python3
"""What a store that is far away costs: bytes and requests beside a bare transfer of the same bytes.

    benches/far.py [--latency MS] [--size MIB] [--rounds N] [--only ROW,...] [--check]

Puts latency before the S3 server and measures a volume on it (durability remote, cache strict: cache=fast is refused
where another host may take the volume over) beside the object_store crate alone, each through a proxy of its own, in
turn: many small files, one large file written, the same read where nothing of it is, and random overwrites, of which
the bytes sent are counted until all has settled. The floor is what the machine allows: that crate alone while the same
program uses a FUSE file system that does nothing. `--check` makes a missed target, or a failure, exit code 1.
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
from bare import GET_PARALLEL, GET_RANGE, PUT_OBJECT, PUT_PARALLEL, Bare
from bench import FULL
from common import MIB, Failed, World, compile_driver, is_mounted, machine
from far_rows import ROWS, SMALL, WATCHED
from program import need_root, run_program, say
from s3 import Server, passed

TITLES = {"bare": "bare transfer", "same": "bare, the same objects", "floor": "bare, beside null FUSE", "orlop": "Orlop, S3", "s3fs": "s3fs"}


class Far:
    """All that rows work with."""

    def __init__(self, world, args):
        self.bytes, self.latency, self.s3fs_seconds, self.watched = args.size * MIB, args.latency, args.seconds, args.watch
        self.files = max(1, self.bytes // SMALL)
        self.bench = workloads.Bench(world, compile_driver(world), workloads.Sizes(**{**FULL.__dict__, "limit": 1800}))
        self.drive = self.bench.drive
        server = Server(world)
        self.bare, self.orlop, self.s3fs = Bare(world, server), field.OrlopS3(world, server), field.S3fs(world, server)
        self.null = field.Null(world, server)

    def start(self, rows):
        self.orlop.start()
        if any("floor" in row.contestants for row in rows):
            self.null.start()
        if any("s3fs" in row.contestants for row in rows):
            self.s3fs.start()

    def restore(self):
        """The volume mounted again, whatever a row has left."""
        if not is_mounted(self.orlop.point):
            self.orlop.mount()

    def measured(self, contestant, work, settle=None):
        """What one did, with what passed its proxy until the end of it and until all had settled."""
        contestant.settle()
        proxy = contestant.proxy
        with proxy.delayed(self.latency):
            before = proxy.stats()
            sample = work()
            ended = proxy.stats()
            (settle or contestant.settle)()
        return sample | {"at_end": passed(before, ended), "settled": passed(before, proxy.stats())}


class Cell:
    """The rounds of one contestant in one row."""

    def __init__(self):
        self.samples, self.error = [], None

    def middle(self, value):
        return statistics.median(value(s) for s in self.samples) if self.samples and not self.error else None

    def rate(self):
        """MiB a second."""
        return self.middle(lambda s: s["bytes"] / MIB / s["seconds"])

    def spread(self):
        rates = [s["bytes"] / s["seconds"] for s in self.samples]
        return (max(rates) - min(rates)) / 2 / statistics.median(rates)

    def sent(self, when="settled"):
        """Bytes sent for each byte that was written."""
        return self.middle(lambda s: s[when]["bytes_up"] / s["bytes"])


def measure(far, row, rounds):
    """The cells of a row: all contestants in turn, who begins changes with each round."""
    cells = {who: Cell() for who in row.contestants}
    try:
        row.prepare(far)
    except (Failed, OSError) as e:
        for cell in cells.values():
            cell.error = f"preparing: {e}"
    for n in range(-1 if row.warm_up else 0, rounds):
        say(f"  {row.key}: {'warm-up' if n < 0 else f'round {n + 1} of {rounds}'}")
        turn = max(n, 0) % len(row.contestants)
        for who in row.contestants[turn:] + row.contestants[:turn]:
            if cells[who].error:
                continue
            try:
                sample = getattr(row, who)(far, n)
            except (Failed, OSError) as e:
                say(f"    {TITLES[who]}: {e}")
                cells[who].error = str(e)
                continue
            if n >= 0:
                cells[who].samples.append(sample)
    return cells


def verdicts(row, cells):
    """(what, value, target, met) of each target of a row."""
    orlop = cells["orlop"].rate()
    for other, least in row.targets.items():
        base = cells[other].rate()
        ratio = orlop / base if orlop and base else None
        yield f"{row.key}: of {TITLES[other]}", ratio, f"at least {least:g}", ratio is not None and ratio >= least
    if most := getattr(row, "most", None):
        sent = cells["orlop"].sent()
        yield f"{row.key}: bytes sent for each changed byte", sent, f"at most {most:g}", sent is not None and sent <= most


def line(row, who, cells):
    cell, bare = cells[who], cells["bare"].rate() if "bare" in cells else None
    if cell.error:
        return f"| {row.title} | {TITLES[who]} | FAILED: {cell.error} | | | | | | |"
    files = f" ({cell.rate() * MIB / SMALL:,.0f} files)" if row.key == "small" else ""
    requests = cell.middle(lambda s: sum(s["settled"]["requests"].values()))
    moved = [cell.middle(lambda s: s[when][what]) / MIB for when, what in (("at_end", "bytes_up"), ("settled", "bytes_up"), ("settled", "bytes_down"))]
    ratio = f"{cell.rate() / bare:.2f}" if bare else "-"
    return (f"| {row.title} | {TITLES[who]} | {cell.middle(lambda s: s['bytes']) / MIB:,.1f} | {cell.rate():,.1f}{files} ±{cell.spread():.0%} | "
            f"{ratio} | {requests:,.0f} | {moved[0]:,.1f} | {moved[1]:,.1f} | {moved[2]:,.1f} |")


def show(args, rows, found, targets):
    print(f"{args.latency:g} ms added to every request; {args.size:,} MiB; {args.rounds} rounds. Bare: objects of {PUT_OBJECT // MIB} MiB, "
          f"{PUT_PARALLEL} at once; read in ranges of {GET_RANGE // MIB} MiB, {GET_PARALLEL} at once.\n")
    print("| row | who | MiB | MiB/s | of bare | requests | MiB sent at the end | when settled | MiB received |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        for who in row.contestants:
            print(line(row, who, found[row.key]))
    print()
    for what, value, target, met in targets:
        print(f"{what}: {'-' if value is None else f'{value:.2f}'}; target {target}: {'met' if met else 'MISSED'}.")


def arguments():
    parser = argparse.ArgumentParser(prog="benches/far.py", description="Bytes and requests of a volume on a store that is far away")
    parser.add_argument("--latency", type=float, default=20, metavar="MS", help="added before each request (default: 20)")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the file, and of all small files (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds that count (default: 3)")
    parser.add_argument("--only", metavar="ROW,...", help=f"of {','.join(row.key for row in ROWS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=30, help="how long s3fs may make files in a round (default: 30)")
    parser.add_argument("--watch", type=float, default=WATCHED, metavar="SECONDS",
                        help=f"how long uploads are counted after the sync, before the volume is unmounted (default: {WATCHED})")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed or something fails")
    parser.add_argument("--dir", metavar="DIR", help="a folder for this run's own folder (default: /var/tmp)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.size < 8 or args.rounds < 1 or args.latency < 0 or args.seconds <= 0 or args.watch < 0:
        parser.error("--size is at least 8, --rounds and --seconds are greater than zero, the others not less")
    keys = args.only.split(",") if args.only else [row.key for row in ROWS]
    if unknown := set(keys) - {row.key for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return args, [row for row in ROWS if row.key in keys]


def main():
    args, rows = arguments()
    need_root()
    began, found, targets = time.monotonic(), {}, []
    with World(args.dir) as world:
        far = Far(world, args)
        far.start(rows)
        for row in rows:
            found[row.key] = measure(far, row, args.rounds)
            far.restore()
            targets += verdicts(row, found[row.key])
    if args.json:
        cells = [{"row": key, "who": TITLES[who], "error": cell.error, "samples": cell.samples}
                 for key, row in found.items() for who, cell in row.items()]
        verdict = [dict(zip(("what", "value", "target", "met"), t)) for t in targets]
        print(json.dumps({"machine": machine(), "latency_ms": args.latency, "size_mib": args.size, "cells": cells, "targets": verdict}, indent=1))
    else:
        show(args, rows, found, targets)
    say(f"{time.monotonic() - began:.0f} s")
    failed = any(cell.error for row in found.values() for cell in row.values())
    return 1 if args.check and (failed or not all(met for *_, met in targets)) else 0


if __name__ == "__main__":
    run_program(main)
