"""`reports/index.html`, one file that needs no other: what was won and lost, then how it looks and was measured."""

from typing import Any

from prunella.reporting import charts, cost_tables, findings, labels, published, summary
from prunella.reporting.caveats import limits
from prunella.reporting.filter_report import Filtered
from prunella.reporting.render import render, svg_markup
from prunella.reporting.summary import Table

STRIP = 8  # prompts in the strip at the head
ROWS = 12  # of a chart's values, written as a table
Report = dict[str, Any]


def page(
    report: Report,
    *,
    plans: dict[str, str],
    cards: list[dict[str, Any]],
    curves: dict[str, charts.Figure],
    samples: dict[str, list[tuple[int, str]]],
    histograms: dict[str, charts.Figure],
    filtered: Filtered,
) -> str:
    """The whole page.

    `plans`: SVG by student; `cards`: of `wall`; `curves` and `histograms`: charts by title; `samples`: (step, picture)
    by "TRAINING/STUDENT".
    """
    tradeoffs = charts.tradeoffs(report)
    charts_by_title = {
        "errors": charts.errors(report),
        **{f"curve {name}": chart for name, chart in (curves | histograms).items()},
    }
    return render(
        "index.html.j2",
        report=report,
        colours=charts.colours(report),
        outcomes=findings.outcomes(report),
        main=findings.main_figure(report),
        tables=_tables(report),
        parted=summary.by_part(report) | summary.changes_by(report),
        figures={"tradeoffs": tradeoffs, "charts": charts_by_title},
        axes={"quality": _parts(tradeoffs, 0, labels.title), "cost": _parts(tradeoffs, 1, _cost)},
        curves={name: values(chart) for name, chart in curves.items()},
        samples=samples,
        histograms={name: values(chart) for name, chart in histograms.items()},
        abouts={labels.title(figure): labels.about(figure) for figure in _figures(report) if labels.about(figure)},
        plans={name: svg_markup(plan) for name, plan in plans.items()},
        cards=cards,
        facts=[card | {"cells": {name: _facts(cell) for name, cell in card["cells"].items()}} for card in cards],
        options=_options(report, cards),
        stages=[stage for stage in labels.words()["stages"] if any(f"/{stage}" in name for name in report["models"])],
        strip=cards[:STRIP],
        filtered=filtered,
        published=published.published(),
        sizes=published.sizes(report),
        speeds=published.speeds(report),
        limits=limits(report),
        glossary=labels.words()["glossary"],
        word=labels,
    )


def _facts(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name != "source"}


def _options(report: Report, cards: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What the wall of pictures can be asked for: value → words, by control."""
    claims = dict.fromkeys(claim for card in cards for claim in card["claims"])
    lost = {claim: f"{claim} is lost" for claim in claims}
    order = {"number": "as drawn", "error": "largest output error", "apart": "farthest from the teacher's picture"}
    return {
        "model": {name: labels.model(name) for name in sorted(report["models"], key=_distilled_first) if "/" in name},
        "filter": {"": "every prompt", "any": "the teacher keeps all claims, it does not"} | lost if claims else {},
        "order": order | ({"false": "most claims lost"} if claims else {}),
    }


def _distilled_first(name: str) -> bool:
    return not name.endswith("/distilled")


def _tables(report: Report) -> dict[str, Table]:
    """Tables of cells, the head first, by name; [] for one that has nothing to say."""
    return {
        "quality": summary.qualities(report),
        "differences": summary.changes(report),
        "counted": cost_tables.counted(report),
        "timed": cost_tables.timed(report),
        "variants": cost_tables.variants(report),
        "published": published.qualities(report),
    }


def values(chart: charts.Figure) -> Table:
    """A chart's values as a table, the head first: a row a position, at most `ROWS` of them, a column a line."""
    lines = {line["name"]: dict(zip(line["x"], line["y"], strict=True)) for line in chart["data"]}
    places = sorted(dict.fromkeys(x for line in lines.values() for x in line))
    step = max(1, -(-len(places) // ROWS))
    kept = [*places[:-1:step], *places[-1:]]
    cells = [[f"{x:g}", *(f"{line[x]:.4g}" if x in line else summary.EMPTY for line in lines.values())] for x in kept]
    return [[chart["layout"]["xaxis"]["title"]["text"], *lines], *cells]


def _parts(tradeoffs: dict[str, charts.Figure], part: int, title: Any) -> dict[str, str]:
    return {key: title(key) for key in dict.fromkeys(name.split("|")[part] for name in tradeoffs)}


def _cost(key: str) -> str:
    return charts.COSTS[key][0]


def _figures(report: Report) -> list[str]:
    return ["output_error", *summary.metrics(report["models"])]
