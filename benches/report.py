"""The tables of a run, in Markdown: medians, their spread, and the ratio to the native folder and to the floor."""

import statistics

from contestants import LETTERS


def number(x):
    if x >= 100:
        return f"{x:,.0f}"
    return f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def size(n):
    return f"{n / (1 << 20):.1f}"


def rate(row, sample):
    """What a sample is worth in the row's unit."""
    amount = sample["bytes"] / (1 << 20) if row.unit == "MiB" else sample["operations"]
    return amount / sample["seconds"] if sample["seconds"] else 0.0


class Cell:
    """All that is known of one contestant in one row."""

    def __init__(self, row):
        self.row, self.samples, self.error = row, [], None

    def rates(self):
        return [rate(self.row, s) for s in self.samples]

    def median(self):
        return statistics.median(self.rates()) if self.samples and not self.error else None

    def spread(self):
        """Half of the distance between the best and the worst round, as a part of the median."""
        rates = self.rates()
        middle = statistics.median(rates)
        return (max(rates) - min(rates)) / 2 / middle if middle else 0.0

    def middle(self, key):
        values = [s[key] for s in self.samples if s.get(key) is not None]
        return statistics.median(values) if values else None

    def partial(self):
        return any(s.get("timed_out") and self.row.key == "untar" for s in self.samples)


def letter(row, contestant):
    return {"read": "", "closed": contestant.closed, "synced": contestant.synced}[row.ends]


def text(cell, native, floor, contestant):
    if cell.error:
        return f"FAILED: {cell.error}".replace("|", "/").replace("\n", " ")[:160]
    middle = cell.median()
    if middle is None:
        return "not measured"
    ratios = [f"{middle / base:.2f}" if base else "-" for base in (native, floor)]
    out = f"{number(middle)} ±{cell.spread():.0%} ({', '.join(ratios)})"
    if cell.partial():
        out += " †"
    mark = letter(cell.row, contestant)
    return f"{out} {mark}" if mark else out


def table(head, lines):
    align = ["---"] * 2 + ["---:"] * (len(head) - 2)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, align, *lines])


def host(result):
    """What was measured where."""
    it = result["machine"]
    return (f"{it['processor']}, {it['cores']} cores, {it['memory_mib']:,} MiB, Linux {it['kernel']}, {result['disk']}; "
            f"load at the start {it['load_at_start'][0]:.1f}")


def held(resident, anonymous):
    """Memory, in MiB."""
    return f"{size(resident)} ({size(anonymous or 0)})" if resident else "-"


def meanings(letters):
    return "; ".join(f"**{k}** {LETTERS[k]}" for k in sorted(letters))


def settings(contestants):
    said = "; ".join(f"{c.title}: {c.setting}" for c in contestants if c.setting)
    return said and f"{said}."


def markdown(result, rows, contestants, cells):
    titles = [c.title for c in contestants]
    unit = {"ops": "/s", "files": " files/s", "MiB": " MiB/s"}
    main, requests, memory = [], [], []
    for row in rows:
        own = [cells[row.key, c.name] for c in contestants]
        base = {c.name: cell.median() for c, cell in zip(contestants, own)}
        label = [f"{row.title} [{unit[row.unit].strip()}]", row.cache]
        done = [s["bytes"] or 0 for c in own for s in c.samples]
        moved = size(max(done)) if any(done) else "-"
        main.append([*label, moved, *(text(cell, base.get("native"), base.get("null"), c) for c, cell in zip(contestants, own))])
        counted = [cell.middle("requests_per_op") for cell in own]
        if any(x is not None for x in counted):
            requests.append([*label, *("-" if x is None else f"{x:.3f}" for x in counted)])
        memory.append([*label, *(held(cell.middle("peak_rss"), cell.middle("peak_anonymous")) for cell in own)])
    sizes = result["sizes"]
    used = {letter(row, c) for row in rows for c in contestants} - {""}
    parts = [
        f"### {result['date']}, revision {result['revision']}",
        f"{host(result)}. {result['rounds']} rounds after one that was discarded, "
        f"{result['seconds']:.0f} s in all. {sizes['files']:,} small files of 4 KiB, at most {sizes['seconds']} s each; big file "
        f"{size(sizes['big'])} MiB, memory limit {size(sizes['memory_limit'])} MiB; {sizes['tar_files']:,} files in the archive; "
        f"{sizes['git_files']:,} in the repository.",
        "Each cell: median, ± half of the range over the rounds, (ratio to native, ratio to the null file system), and what is "
        "durable when the last call returns.",
        table(["workload", "cache", "MiB", *titles], main).replace("| --- | --- |", "| --- | --- |", 1),
        meanings(used) + ". MiB: the most bytes that a round moved."
        + (" † the time limit ended it before its end; the rate is that of the part." if any(c.partial() for c in cells.values()) else ""),
        settings(contestants),
    ]
    if requests:
        parts += ["Requests to the S3 server for each operation (each MiB, where the row counts MiB), with what followed in the "
                  "background:", table(["workload", "cache", *titles], requests)]
    parts += ["Peak memory of the serving process in MiB, resident (of this anonymous):", table(["workload", "cache", *titles], memory)]
    return "\n\n".join(part for part in parts if part) + "\n"
