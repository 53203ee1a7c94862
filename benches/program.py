"""What every benchmark is as a program: how it speaks and ends, what it says of the machine, and where results go."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import HERE, Failed, machine

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


def need_root():
    if os.geteuid() != 0:
        raise SystemExit("error: it mounts file systems: run it as root")


def numbers(text):
    """An option's numbers, with commas between them; for argparse."""
    try:
        found = sorted({int(n) for n in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: numbers with commas between them") from None
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text}: numbers greater than zero")
    return found


def add_places(parser):
    parser.add_argument("--dir", metavar="DIR", help="the disk to use: a folder for the run's own folder (default: /var/tmp)")
    parser.add_argument("--out", metavar="DIR", help="where the table and the figures are written")
    parser.add_argument("--record", action="store_true", help="put the table into docs/BENCHMARKS.md too")


def about():
    """When and where a run takes place, and of what."""
    described = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        "revision": described.stdout.strip() or "unknown", "machine": machine(),
    }


def disk(folder):
    out = subprocess.run(["findmnt", "-no", "FSTYPE,SOURCE", "-T", folder], capture_output=True, text=True).stdout.split()
    return " on ".join(out) or "an unknown disk"


def out_folder(given, kind):
    """The folder that was asked for, or a new one in the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orlop"
    out = Path(given) if given else cache / kind / time.strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(out, text, result):
    (out / "table.md").write_text(text)
    (out / "figures.json").write_text(json.dumps(result, indent=1))


def record(text, mark="<!-- tables, the newest first -->\n"):
    """Puts a table at the top of those in the document."""
    document = DOCUMENT.read_text()
    if mark not in document:
        raise SystemExit(f"error: {DOCUMENT} has no line {mark.strip()}")
    DOCUMENT.write_text(document.replace(mark, f"{mark}\n{text}", 1))
