"""`reports/index.html`, one file that needs no other: what was won and lost, then how it looks and was measured."""

from typing import Any

from prunella.reporting import costs, figures, outcome, published, summary, words
from prunella.reporting.filter_page import Filtered
from prunella.reporting.limits import limits
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
    curves: dict[str, figures.Figure],
    samples: dict[str, list[tuple[int, str]]],
    histograms: dict[str, figures.Figure],
    filtered: Filtered,
) -> str:
    """The whole page.

    `plans`: SVG by student; `cards`: of `wall`; `curves` and `histograms`: charts by title; `samples`: (step, picture)
    by "TRAINING/STUDENT".
    """
    tradeoffs = figures.tradeoffs(report)
    charts = {
        "errors": figures.errors(report),
        **{f"curve {name}": chart for name, chart in (curves | histograms).items()},
    }
    return render(
        "index.html.j2",
        report=report,
        colours=figures.colours(report),
        outcomes=outcome.outcomes(report),
        main=outcome.main_figure(report),
        tables=_tables(report),
        parted=summary.by_part(report) | summary.changes_by(report),
        figures={"tradeoffs": tradeoffs, "charts": charts},
        axes={"quality": _parts(tradeoffs, 0, words.title), "cost": _parts(tradeoffs, 1, _cost)},
        curves={name: values(chart) for name, chart in curves.items()},
        samples=samples,
        histograms={name: values(chart) for name, chart in histograms.items()},
        abouts={words.title(figure): words.about(figure) for figure in _figures(report) if words.about(figure)},
        plans={name: svg_markup(plan) for name, plan in plans.items()},
        cards=cards,
        facts=[card | {"cells": {name: _facts(cell) for name, cell in card["cells"].items()}} for card in cards],
        options=_options(report, cards),
        stages=[stage for stage in words.words()["stages"] if any(f"/{stage}" in name for name in report["models"])],
        strip=cards[:STRIP],
        filtered=filtered,
        published=published.published(),
        sizes=published.sizes(report),
        speeds=published.speeds(report),
        limits=limits(report),
        glossary=words.words()["glossary"],
        word=words,
    )


def _facts(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name != "source"}


def _options(report: Report, cards: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What the wall of pictures can be asked for: value → words, by control."""
    claims = dict.fromkeys(claim for card in cards for claim in card["claims"])
    lost = {claim: f"{claim} is lost" for claim in claims}
    order = {"number": "as drawn", "error": "largest output error", "apart": "farthest from the teacher's picture"}
    return {
        "model": {name: words.model(name) for name in sorted(report["models"], key=_distilled_first) if "/" in name},
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
        "counted": costs.counted(report),
        "timed": costs.timed(report),
        "variants": costs.variants(report),
        "published": published.qualities(report),
    }


def values(chart: figures.Figure) -> Table:
    """A chart's values as a table, the head first: a row a position, at most `ROWS` of them, a column a line."""
    lines = {line["name"]: dict(zip(line["x"], line["y"], strict=True)) for line in chart["data"]}
    places = sorted(dict.fromkeys(x for line in lines.values() for x in line))
    step = max(1, -(-len(places) // ROWS))
    kept = [*places[:-1:step], *places[-1:]]
    cells = [[f"{x:g}", *(f"{line[x]:.4g}" if x in line else summary.EMPTY for line in lines.values())] for x in kept]
    return [[chart["layout"]["xaxis"]["title"]["text"], *lines], *cells]


def _parts(tradeoffs: dict[str, figures.Figure], part: int, title: Any) -> dict[str, str]:
    return {key: title(key) for key in dict.fromkeys(name.split("|")[part] for name in tradeoffs)}


def _cost(key: str) -> str:
    return figures.COSTS[key][0]


def _figures(report: Report) -> list[str]:
    return ["output_error", *summary.metrics(report["models"])]
