"""Line charts as SVG."""

from html import escape
from math import floor, log10

COLOURS = ("#1b6ca8", "#c8501e", "#2f8f4e", "#8a4fa3", "#a08414", "#666")
Curves = dict[str, list[tuple[float, float]]]


def chart(lines: Curves, width: int = 500, height: int = 260) -> str:
    """Lines over steps as SVG, the value axis logarithmic."""
    points = [(x, y) for line in lines.values() for x, y in line if y > 0]
    if not points:
        return "<p>no values</p>"
    left, bottom, right, top = 50, 25, 130, 10
    last = max(x for x, _ in points) or 1
    low, high = log10(min(y for _, y in points)), log10(max(y for _, y in points))
    span = (high - low) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (width - left - right) * x / last
        return round(across, 1), round(top + (height - top - bottom) * (high - log10(y)) / span, 1)

    drawn = [f'<svg width="{width}" height="{height}" font-size="11" fill="none">']
    for tick in _ticks(10**low, 10**high, floor(low)):
        y = place(0, tick)[1]
        drawn.append(
            f'<path d="M{left} {y}H{width - right}" stroke="#ddd"/>'
            f'<text x="{left - 4}" y="{y + 4}" text-anchor="end" fill="#555">{tick:g}</text>'
        )
    drawn.append(f'<text x="{left}" y="{height - 6}" fill="#555">step 0</text>')
    drawn.append(f'<text x="{width - right}" y="{height - 6}" text-anchor="end" fill="#555">{last:g}</text>')
    for i, (name, line) in enumerate(lines.items()):
        colour, path = COLOURS[i % len(COLOURS)], "L".join("{} {}".format(*place(x, y)) for x, y in line if y > 0)
        drawn.append(f'<path d="M{path}" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(f'<text x="{width - right + 6}" y="{top + 12 + 14 * i}" fill="{colour}">{escape(name)}</text>')
    return "".join(drawn) + "</svg>"


def _ticks(low: float, high: float, decade: int) -> list[float]:
    ticks = [round(step * 10.0**power, 10) for power in range(decade, decade + 8) for step in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]
