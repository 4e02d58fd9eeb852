"""The plots of a record, in SVG. Each has a background of its own, so that it is legible on a light page and on a dark one."""

import math
from xml.sax.saxutils import escape

WIDTH = 820
LABELS = 210
RIGHT = 130
BAR, GAP = 20, 12
TOP, BOTTOM = 70, 40

STYLE = """
svg { font: 13px system-ui, sans-serif; }
.ground { fill: #ffffff; } .text { fill: #24292f; } .faint { fill: #57606a; } .grid { stroke: #d0d7de; } .whisker { stroke: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.c0 { fill: #8c959f; } .c1 { fill: #0969da; } .c2 { fill: #54aeff; } .c3 { fill: #bc4c00; } .c4 { fill: #f0a35e; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117; } .text { fill: #e6edf3; } .faint { fill: #8b949e; } .grid { stroke: #30363d; } .whisker { stroke: #e6edf3; }
  .c0 { fill: #6e7681; } .c1 { fill: #388bfd; } .c2 { fill: #a5d6ff; } .c3 { fill: #db6d28; } .c4 { fill: #ffc680; }
}
"""

# Lines: one colour and one mark for each peer; they are told apart on both grounds, and by their marks without colour.
LINES = ("#8c959f", "#2f81f7", "#a371f7", "#3fb950", "#db6d28", "#e3b341", "#f778ba", "#39c5cf", "#f85149")


def all_plots(record):
    """Name of the file → SVG."""
    usual = record.usual_connections()
    plots = {}
    for name, description in record.workloads.items():
        caption = f"{name}, {usual:,} connections: requests/s, median and range"
        plots[f"rate-{name}.svg"] = bars(caption, [
            (entry["label"], spread, peer == "nibiru") for peer, entry in record.peers.items()
            if (spread := record.spread("rate", peer, name, usual))])
        plots[f"cpu-{name}.svg"] = stacks(f"{name}, {usual:,} connections: CPU time of a request, µs", (
            "server, user", "server, system", "nginx, user", "nginx, system"), [
            (entry["label"], [record.spread(part, peer, name, usual).median
                              for part in ("server_user_us", "server_system_us", "nginx_user_us", "nginx_system_us")])
            for peer, entry in record.peers.items() if record.spread("rate", peer, name, usual)])
    counts = record.connections("hello") if "hello" in record.workloads else []
    if len(counts) > 1:
        for file, figure, caption in (("rate-by-connections.svg", "rate", "hello: requests/s by connections"),
                                      ("p99-by-connections.svg", "p99_ms", "hello: p99 latency in ms by connections")):
            lines = [(entry["label"], peer == "nibiru", [(count, spread.median) for count in counts if (spread := record.spread(figure, peer, "hello", count))])
                     for peer, entry in record.peers.items()]
            plots[file] = curves(caption, counts, lines, logarithmic=figure == "p99_ms")
    return plots


def nice_step(most, steps=5):
    """The distance of the lines of a grid that has about so many: 1, 2 or 5 times a power of ten."""
    raw = most / steps
    power = 10 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)


def number(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.2g}"


def text(x, y, words, kind="text", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def svg(height, caption, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">'
            f"<title>{escape(caption)}</title><style>{STYLE}</style>"
            f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>'
            f'{text(16, 28, caption, "text title")}{"".join(parts)}</svg>\n')


def grid(most, bottom):
    """Vertical lines with their numbers, and the scale: value → x."""
    def x(value):
        return LABELS + value / most * (WIDTH - LABELS - RIGHT)

    step, parts, value = nice_step(most), [], 0
    while value <= most:
        parts += [line(x(value), TOP - 10, x(value), bottom, "grid"), text(x(value), bottom + 18, number(value), "faint", "middle")]
        value += step
    return parts, x


def bars(caption, rows):
    """Horizontal bars with the range as a whisker: (label, spread, whether it stands out) each."""
    bottom = TOP + len(rows) * (BAR + GAP)
    parts, x = grid(max((spread.most for _, spread, _ in rows), default=1), bottom)
    for index, (label, spread, stands_out) in enumerate(rows):
        y = TOP + index * (BAR + GAP)
        middle = y + BAR / 2
        parts += [text(LABELS - 10, middle + 4, label, anchor="end"),
                  f'<rect x="{x(0):.1f}" y="{y}" width="{x(spread.median) - x(0):.1f}" height="{BAR}" class="{"c1" if stands_out else "c0"}"/>',
                  line(x(spread.least), middle, x(spread.most), middle, "whisker"),
                  line(x(spread.least), middle - 5, x(spread.least), middle + 5, "whisker"),
                  line(x(spread.most), middle - 5, x(spread.most), middle + 5, "whisker"),
                  text(x(spread.most) + 8, middle + 4, number(spread.median))]
    return svg(bottom + BOTTOM, caption, parts)


def stacks(caption, names, rows):
    """Horizontal bars of parts: (label, the value of each part)."""
    bottom = TOP + len(rows) * (BAR + GAP)
    parts, x = grid(max((sum(values) for _, values in rows), default=1), bottom)
    left = LABELS
    for index, name in enumerate(names, 1):
        parts += [f'<rect x="{left}" y="40" width="12" height="12" class="c{index}"/>', text(left + 18, 51, name)]
        left += 140
    for index, (label, values) in enumerate(rows):
        y = TOP + index * (BAR + GAP)
        parts.append(text(LABELS - 10, y + BAR / 2 + 4, label, anchor="end"))
        begun = 0
        for part, value in enumerate(values, 1):
            parts.append(f'<rect x="{x(begun):.1f}" y="{y}" width="{x(begun + value) - x(begun):.1f}" height="{BAR}" class="c{part}"/>')
            begun += value
        parts.append(text(x(begun) + 8, y + BAR / 2 + 4, number(begun)))
    return svg(bottom + BOTTOM, caption, parts)


def mark(kind, x, y, colour):
    """A circle, a square or a triangle around a point."""
    shapes = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
              f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>',
              f'<path d="M{x:.1f} {y - 5:.1f} l5 9 h-10 z" fill="{colour}"/>')
    return shapes[kind % len(shapes)]


def curves(caption, counts, lines, logarithmic):
    """Lines over the numbers of connections, which stand at equal distances: (label, whether it stands out,
    [(connections, value)])."""
    left, right, height = 70, 560, 330
    values = [value for _, _, points in lines for _, value in points] or [1]
    least, most = (min(values), max(values)) if logarithmic else (0, max(values))
    scale = math.log10 if logarithmic else float
    if logarithmic:
        least, most = 10 ** math.floor(math.log10(least)), 10 ** math.ceil(math.log10(most))
        if least == most:
            most *= 10
        ticks = [10 ** power for power in range(round(math.log10(least)), round(math.log10(most)) + 1)]
    else:
        step = nice_step(most)
        ticks = [step * index for index in range(int(most / step) + 1)]

    def x(count):
        return left + counts.index(count) / max(len(counts) - 1, 1) * (right - left)

    def y(value):
        return TOP + height - (scale(value) - scale(least)) / (scale(most) - scale(least)) * height

    parts = []
    for tick in ticks:
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 8, y(tick) + 4, number(tick) if tick >= 1 else f"{tick:g}", "faint", "end")]
    parts += [text(x(count), TOP + height + 20, f"{count:,}", "faint", "middle") for count in counts]
    parts.append(text((left + right) / 2, TOP + height + 42, "connections", "faint", "middle"))
    for index, (label, stands_out, points) in enumerate(lines):
        colour = LINES[index % len(LINES)]
        path = " ".join(f"{x(count):.1f},{y(value):.1f}" for count, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{4 if stands_out else 2}"/>')
        parts += [mark(index, x(count), y(value), colour) for count, value in points]
        legend = TOP + 10 + index * 24
        parts += [mark(index, right + 40, legend, colour), text(right + 52, legend + 4, label)]
    return svg(TOP + height + 60, caption, parts)
