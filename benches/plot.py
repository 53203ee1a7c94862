"""Draws lines over two logarithmic axes as SVG, in panels.

The colours are of middle lightness and the ground is left out, so that a plot can be read on white and on black; every
line has a marker of its own besides, for who does not see colours.
"""

from dataclasses import dataclass
from math import ceil, floor, log10
from xml.sax.saxutils import escape

INK, FAINT = "#747c86", "#747c864d"
STYLES = [
    ("#747c86", "circle"), ("#8c6d31", "diamond"), ("#b08800", "square"), ("#218bff", "circle"), ("#e5534b", "square"),
    ("#2da44e", "triangle"), ("#a371f7", "diamond"), ("#d4669f", "triangle"),
]
WIDTH, HEIGHT, COLUMNS = 330, 250, 3
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 44
LEGEND = 62


@dataclass
class Line:
    name: str
    style: int
    points: list  # (x, y, whether it is whole: others are drawn hollow)


@dataclass
class Panel:
    title: str
    x: str
    y: str
    lines: list


def short(n):
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if n >= unit:
            return f"{n / unit:g}{letter}"
    return f"{n:g}"


class Axis:
    """A logarithmic axis: from which to which value, where on the paper, and which values are named."""

    def __init__(self, values, start, end, least):
        low, high = min(values), max(values)
        room = max(1.3, (least * low / high) ** 0.5)
        self.low, self.high, self.start, self.end = low / room, high * room, start, end

    def at(self, value):
        part = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return self.start + part * (self.end - self.start)

    def ticks(self):
        steps = (1,) if self.high / self.low >= 100 else (1, 2, 5)
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        return [t for t in (step * 10**d for d in decades for step in steps) if self.low <= t <= self.high]


def text(x, y, words, anchor="middle", size=11, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>{escape(words)}</text>'


def stroke(x1, y1, x2, y2, colour=FAINT):
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>'


SHAPES = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "square": "M-3.5-3.5h7v7h-7z",
    "triangle": "M0-4.5L4.5 3.5h-9z", "diamond": "M0-5L5 0L0 5L-5 0z",
}


def markers(styles):
    """Every marker once, full and hollow, for marker() to name."""
    out = []
    for style in styles:
        colour, shape = STYLES[style]
        for name, fill in ((f"m{style}", colour), (f"h{style}", "none")):
            out.append(f'<path id="{name}" d="{SHAPES[shape]}" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>')
    return ["<defs>", *out, "</defs>"]


def marker(x, y, style, whole=True, title=""):
    said = f"<title>{escape(title)}</title>" if title else ""
    return f'<use href="#{"m" if whole else "h"}{style}" x="{x:.1f}" y="{y:.1f}">{said}</use>'


def draw_line(line, across, up):
    places = [(across.at(x), up.at(y)) for x, y, _ in line.points]
    route = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    out = [f'<path d="M{route}" fill="none" stroke="{STYLES[line.style][0]}" stroke-width="1.8"/>']
    for (x, y), (files, value, whole) in zip(places, line.points):
        out.append(marker(x, y, line.style, whole, f"{line.name}: {value:,.4g} at {files:,}"))
    return out


def draw_panel(panel, x, y):
    left, right, top, bottom = x + LEFT, x + WIDTH - RIGHT, y + TOP, y + HEIGHT - BOTTOM
    out = [text((left + right) / 2, y + 18, panel.title, size=12, more=' font-weight="bold"')]
    points = [p for line in panel.lines for p in line.points]
    if not points:
        return [*out, text((left + right) / 2, (top + bottom) / 2, "no figures")]
    across, up = Axis([p[0] for p in points], left, right, 4), Axis([p[1] for p in points], bottom, top, 10)
    for tick in across.ticks():
        out += [stroke(across.at(tick), top, across.at(tick), bottom), text(across.at(tick), bottom + 15, short(tick))]
    for tick in up.ticks():
        out += [stroke(left, up.at(tick), right, up.at(tick)), text(left - 6, up.at(tick) + 4, short(tick), "end")]
    out += [stroke(left, top, left, bottom, INK), stroke(left, bottom, right, bottom, INK)]
    middle = (top + bottom) / 2
    upright = f' transform="rotate(-90 {x + 14} {middle:.1f})"'
    out += [text((left + right) / 2, bottom + 32, panel.x), text(x + 14, middle, panel.y, more=upright)]
    for line in panel.lines:
        if line.points:
            out += draw_line(line, across, up)
    return out


def draw_legend(names, width, note):
    # No font is known here: a letter is taken to be some 6 wide.
    room = {style: 6.2 * len(name) + 40 for style, name in names.items()}
    x, out = (width - sum(room.values())) / 2 + 20, []
    for style, name in names.items():
        out += [marker(x, 38, style), text(x + 12, 42, name, "start")]
        x += room[style]
    return [*out, text(width / 2, LEGEND - 4, note, size=10)] if note else out


def draw(title, panels, note=""):
    """The panels in rows of three, below a title and a legend."""
    names = dict(sorted((line.style, line.name) for panel in panels for line in panel.lines))
    width, height = WIDTH * min(COLUMNS, len(panels)), LEGEND + HEIGHT * -(-len(panels) // COLUMNS)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" fill="{INK}">',
        f"<title>{escape(title)}</title>", text(width / 2, 18, title, size=15, more=' font-weight="bold"'),
        *markers(names), *draw_legend(names, width, note),
    ]
    for i, panel in enumerate(panels):
        out += draw_panel(panel, i % COLUMNS * WIDTH, LEGEND + i // COLUMNS * HEIGHT)
    return "\n".join([*out, "</svg>"]) + "\n"
