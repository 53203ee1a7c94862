"""The table of benches/scale.py in Markdown, and its plots; both from the figures alone, so that saved ones serve as well."""

import contestants as field
import plot
import report

KINDS = {c.name: c for c in field.ALL}
STYLE = {c.name: i for i, c in enumerate(field.ALL)}
FLOOR = "null-fast"
SHORT = {"-": "", "hot": " (hot)", "page cache dropped": " (cold)"}


def numbers(result, key):
    return sorted({c[key] for c in result["cells"]})


def those(result):
    """The contestants, in their usual order."""
    there = {c["contestant"] for c in result["cells"]}
    return [c for c in field.ALL if c.name in there]


def cells_of(result, threads):
    return {(c["files"], c["row"], c["contestant"]): c for c in result["cells"] if c["threads"] == threads}


def whole(cell):
    return not cell["stopped"] and cell["in_place"] >= cell["files"]


def rate(cell, bases):
    """What the table says of a cell."""
    if cell["error"]:
        return f"FAILED: {cell['error']}".replace("|", "/").replace("\n", " ")[:160]
    if cell["median"] is None:
        return "not measured"
    ratios = [f"{cell['median'] / base:.2f}" if base else "-" for base in bases]
    spread = f" ±{cell['spread']:.0%}" if cell["rounds"] > 1 else ""
    there = f" ({cell['in_place']:,} files)" if cell["in_place"] < cell["files"] else ""
    marks = [m for m in ("†" if cell["stopped"] else "", cell["durable"]) if m]
    return " ".join([f"{report.number(cell['median'])}{spread} ({', '.join(ratios)}){there}", *marks])


def requests(cell):
    return "-" if cell["requests_per_op"] is None else f"{cell['requests_per_op']:.3f}"


def memory(cell):
    return report.held(cell["peak_rss"], cell["peak_anonymous"])


def grid(result, rows, cells, say):
    """A table of one number of threads: a line for each row and number of files, a column for each contestant."""
    kinds, lines = those(result), []
    for row in rows:
        for files in numbers(result, "files"):
            own = [cells.get((files, row.key, kind.name)) for kind in kinds]
            if any(own):
                lines.append([row.title, row.cache, f"{files:,}", *(say(cell) if cell else "not measured" for cell in own)])
    return report.table(["operation", "cache", "files", *(kind.title for kind in kinds)], lines)


def rates(result, rows, cells):
    def say(cell):
        bases = [cells.get((cell["files"], cell["row"], base)) for base in ("native", FLOOR)]
        return rate(cell, [base and base["median"] for base in bases])

    return grid(result, rows, cells, say)


def describe(run):
    quick = " A trial: the figures mean nothing." if run["quick"] else ""
    return (f"{run['date']}, revision {run['revision']}: {report.host(run)}. Files of {run['size']:,} bytes, at most {run['limit']:g} s "
            f"for each measurement, {run['seconds']:.0f} s in all.{quick}")


def rounds(result):
    """How often each number of files was measured."""
    said = []
    for files in numbers(result, "files"):
        own = [c for c in result["cells"] if c["files"] == files]
        most, warm = max(c["rounds"] for c in own), any(c["warm_up"] for c in own)
        said.append(f"{files:,} files {most}{' after one that was discarded' if warm else ''}")
    return "Rounds: " + ", ".join(said) + "."


def legend(result):
    letters = {c["durable"] for c in result["cells"] if c["durable"]}
    return (f"Each cell: operations in a second, the median of the rounds, ± half of their range, (ratio to native, ratio to "
            f"{KINDS[FLOOR].title}), and what is durable when the last call returns: {report.meanings(letters)}."
            " † the time limit ended it: the rate is that of the part that was done. (N files): only so many were there.")


def markdown(result, rows, plots):
    """The tables of all numbers of threads; `plots` are the links to their plots."""
    last = result["runs"][-1]
    counted = any(c["requests_per_op"] is not None for c in result["cells"])
    parts = [f"### {last['date']}, number of files and threads", *(describe(run) for run in result["runs"]),
             rounds(result), legend(result), report.settings(those(result))]
    for threads in numbers(result, "threads"):
        cells = cells_of(result, threads)
        name = threads_of(threads)
        picture = f"![operations in a second by the number of files, {name}]({plots[threads]})"
        parts += [f"#### {name.capitalize()}", picture, rates(result, rows, cells)]
        if counted:
            said = "Requests to the S3 server for each operation, with what followed in the background:"
            parts += [said, grid(result, rows, cells, requests)]
        if any(c["peak_rss"] for c in cells.values()):
            parts += ["Peak memory of the serving process in MiB, resident (of this anonymous):", grid(result, rows, cells, memory)]
    return "\n\n".join(part for part in parts if part) + "\n"


def threads_of(threads):
    return f"{threads} thread{'s' if threads > 1 else ''}"


def line(kind, cells, value):
    """A contestant's line; a point lies at the number of files that there really were."""
    own = sorted((c for c in cells if c["contestant"] == kind.name and c["median"]), key=lambda c: c["files"])
    return plot.Line(kind.title, STYLE[kind.name], [(c["in_place"], value(c), whole(c)) for c in own if value(c)])


def most_memory(cells):
    """Of each number of files, the cell of each contestant whose memory was the most."""
    best = {}
    for cell in cells:
        key = cell["files"], cell["contestant"]
        if key not in best or (cell["peak_rss"] or 0) > (best[key]["peak_rss"] or 0):
            best[key] = cell
    return best.values()


def plots(result, rows):
    """For each number of threads a plot: a panel for each row, and one for memory."""
    drawn = {}
    for threads in numbers(result, "threads"):
        cells = cells_of(result, threads).values()
        panels = []
        for row in rows:
            own = [c for c in cells if c["row"] == row.key]
            unit = {"ops": "operations"}.get(row.unit, row.unit)
            lines = [line(kind, own, lambda c: c["median"]) for kind in those(result)]
            panels.append(plot.Panel(row.title + SHORT[row.cache], "files", f"{unit} per second", lines))
        mib = [line(k, most_memory(cells), lambda c: (c["peak_rss"] or 0) / (1 << 20)) for k in those(result)]
        panels.append(plot.Panel("peak memory of the serving process", "files", "MiB", mib))
        hollow = any(not whole(c) for c in cells if c["median"])
        note = "Cold: page cache dropped." + (" Hollow: the time limit ended it, or fewer files were there." if hollow else "")
        drawn[threads] = plot.draw(f"Operations on small files, {threads_of(threads)}", panels, note)
    return drawn
