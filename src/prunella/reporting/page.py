"""`reports/index.html`: the table, the pictures, the curves; one file of plain HTML and SVG beside its images."""

from html import escape

from prunella.reporting.style import STYLE

COLOURS = ("#1b6ca8", "#c8501e", "#2f8f4e", "#8a4fa3", "#a08414", "#666")
Curves = dict[str, list[tuple[float, float]]]


def page(
    report: dict,
    tables: list[list[list[str]]],
    drawings: list[str],
    images: dict[str, str],
    prompts: list[str],
    curves: dict[str, Curves],
) -> str:
    """The whole page.

    `tables`: rows of cells, the head first; `drawings`: SVG; `images`: file by caption; `curves`: lines by chart.
    """
    pictures = "".join(
        f'<p>{escape(text)}</p><img src="{escape(file)}" alt="{escape(text)}">' for text, file in images.items()
    )
    listed = "".join(f"<li>{escape(prompt)}</li>" for prompt in prompts)
    charts = "".join(
        f"<figure>{chart(lines)}<figcaption>{escape(name)}</figcaption></figure>" for name, lines in curves.items()
    )
    notes = {**report["hardware"], **report["settings"]}
    said = "".join(f"<dd>{escape(str(name))}: {escape(str(value))}</dd>" for name, value in notes.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Prunella</title><style>{STYLE}</style>'
        f"<h1>Teacher and students</h1>{''.join(map(table, tables))}"
        '<p><a href="filter.html">What fell out of the data</a></p>'
        "<p>Score: share of pictures in which every claim of the caption is true, with its 95 % interval. "
        "The second table: the share in which each single claim is true. "
        "Output error: mean squared difference from the teacher's prediction on held-out pairs. "
        "Latency: one picture, median. "
        "Fréchet: distance of the drawn from real pictures in the teacher's VAE's latents, averaged over 4 × 4 cells; "
        "that of other real pictures is its floor, and values compare at this number of pictures only.</p>"
        f"<h2>What is kept</h2>{''.join(drawings)}"
        f"<h2>The same prompts from the same noise</h2>{pictures}<ol>{listed}</ol>"
        f"<h2>Curves</h2>{charts}<h2>How it was measured</h2><dl>{said}</dl></html>\n"
    )


def table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def chart(lines: Curves, width: int = 500, height: int = 260) -> str:
    """Lines over steps as SVG, the value axis logarithmic."""
    from math import floor, log10

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
