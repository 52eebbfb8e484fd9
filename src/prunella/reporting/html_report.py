"""`reports/index.html`, one file that needs no other: what was won and lost, then how it looks and was measured."""

from typing import Any

from prunella.reporting import charts, cost_tables, findings, labels, published, summary
from prunella.reporting.caveats import list_caveats
from prunella.reporting.filter_report import FilterSummary
from prunella.reporting.render import mark_svg_safe, render_page
from prunella.reporting.summary import Table

STRIP_PROMPTS = 8  # prompts in the strip at the head
MAX_TABLE_ROWS = 12  # of a chart's values, written as a table
Report = dict[str, Any]


def render_report_page(
    report: Report,
    *,
    plans: dict[str, str],
    cards: list[dict[str, Any]],
    curves: dict[str, charts.Figure],
    training_images: dict[str, list[tuple[int, str]]],
    histograms: dict[str, charts.Figure],
    filter_summary: FilterSummary,
) -> str:
    """The whole page.

    `plans`: SVG by student; `cards`: of `wall`; `curves` and `histograms`: charts by title; `training_images`: (step,
    picture) by "TRAINING/STUDENT".
    """
    tradeoffs = charts.plot_tradeoffs(report)
    charts_by_title = {
        "errors": charts.plot_output_errors(report),
        **{f"curve {name}": chart for name, chart in (curves | histograms).items()},
    }
    return render_page(
        "index.html.j2",
        report=report,
        colours=charts.assign_colors(report),
        outcomes=findings.summarize_students(report),
        main=findings.select_main_metric(report),
        tables=_build_tables(report),
        parted=summary.build_breakdown_tables(report) | summary.build_difference_breakdown_tables(report),
        figures={"tradeoffs": tradeoffs, "charts": charts_by_title},
        axes={
            "quality": _axis_titles(tradeoffs, 0, labels.label_metric),
            "cost": _axis_titles(tradeoffs, 1, _cost_title),
        },
        curves={name: tabulate_chart(chart) for name, chart in curves.items()},
        samples=training_images,
        histograms={name: tabulate_chart(chart) for name, chart in histograms.items()},
        abouts={
            labels.label_metric(metric): labels.describe_metric(metric)
            for metric in _list_metrics(report)
            if labels.describe_metric(metric)
        },
        plans={name: mark_svg_safe(plan) for name, plan in plans.items()},
        cards=cards,
        facts=[
            card | {"cells": {name: _drop_image_source(cell) for name, cell in card["cells"].items()}} for card in cards
        ],
        options=_gallery_options(report, cards),
        stages=[
            stage for stage in labels.read_labels()["stages"] if any(f"/{stage}" in name for name in report["models"])
        ],
        strip=cards[:STRIP_PROMPTS],
        filtered=filter_summary,
        published=published.read_published_figures(),
        sizes=published.compare_published_sizes(report),
        speeds=published.compare_published_speeds(report),
        limits=list_caveats(report),
        glossary=labels.read_labels()["glossary"],
        word=labels,
    )


def _drop_image_source(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name != "source"}


def _gallery_options(report: Report, cards: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Controls of the wall of pictures: value → words, by control."""
    claims = dict.fromkeys(claim for card in cards for claim in card["claims"])
    claim_options = {claim: f"{claim} is lost" for claim in claims}
    order = {"number": "as drawn", "error": "largest output error", "apart": "farthest from the teacher's picture"}
    return {
        "model": {
            name: labels.label_model(name) for name in sorted(report["models"], key=_sort_key_distilled) if "/" in name
        },
        "filter": {"": "every prompt", "any": "the teacher keeps all claims, it does not"} | claim_options
        if claims
        else {},
        "order": order | ({"false": "most claims lost"} if claims else {}),
    }


def _sort_key_distilled(name: str) -> bool:
    return not name.endswith("/distilled")


def _build_tables(report: Report) -> dict[str, Table]:
    """Tables of cells, the head first, by name; [] for one that has nothing to say."""
    return {
        "quality": summary.build_quality_table(report),
        "differences": summary.build_difference_table(report),
        "counted": cost_tables.build_counted_table(report),
        "timed": cost_tables.build_measured_table(report),
        "variants": cost_tables.build_variant_table(report),
        "published": published.build_published_quality_table(report),
    }


def tabulate_chart(chart: charts.Figure) -> Table:
    """A chart's values as a table, the head first.

    A row a position, at most `MAX_TABLE_ROWS` of them, a column a line.
    """
    lines = {line["name"]: dict(zip(line["x"], line["y"], strict=True)) for line in chart["data"]}
    positions = sorted(dict.fromkeys(x for line in lines.values() for x in line))
    step = max(1, -(-len(positions) // MAX_TABLE_ROWS))
    selected = [*positions[:-1:step], *positions[-1:]]
    cells = [
        [f"{x:g}", *(f"{line[x]:.4g}" if x in line else summary.EMPTY for line in lines.values())] for x in selected
    ]
    return [[chart["layout"]["xaxis"]["title"]["text"], *lines], *cells]


def _axis_titles(tradeoffs: dict[str, charts.Figure], key_index: int, format_title: Any) -> dict[str, str]:
    return {key: format_title(key) for key in dict.fromkeys(name.split("|")[key_index] for name in tradeoffs)}


def _cost_title(key: str) -> str:
    return charts.COSTS[key][0]


def _list_metrics(report: Report) -> list[str]:
    return ["output_error", *summary.list_image_metrics(report["models"])]
