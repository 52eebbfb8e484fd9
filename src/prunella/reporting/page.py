"""`reports/index.html`: the tables, the pictures, the curves; one file of plain HTML and SVG beside its images."""

from typing import Any

from prunella.reporting.chart import Curves, chart
from prunella.reporting.render import render, svg_markup


def page(
    report: dict[str, Any],
    *,
    tables: list[list[list[str]]],
    plans: list[str],
    images: dict[str, str],
    prompts: list[str],
    curves: dict[str, Curves],
) -> str:
    """The whole page.

    `tables`: rows of cells, the head first; `plans`: SVG; `images`: file by caption; `curves`: lines by chart.
    """
    return render(
        "index.html.j2",
        tables=tables,
        unavailable=report["unavailable"],
        plans=[svg_markup(plan) for plan in plans],
        images=images,
        prompts=prompts,
        charts={name: svg_markup(chart(lines)) for name, lines in curves.items()},
        notes={**report["hardware"], **report["settings"]},
    )
