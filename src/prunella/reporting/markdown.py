"""`reports/summary.md`: the report in short, as Markdown, for model cards and pull requests."""

from typing import Any

from prunella.reporting import costs, outcome, summary, words
from prunella.reporting.limits import limits
from prunella.reporting.render import render_text
from prunella.reporting.summary import Table


def markdown(report: dict[str, Any]) -> str:
    """The whole text; its pictures are in `images/` beside it."""
    figures = ["output_error", *summary.metrics(report["models"])]
    return render_text(
        "summary.md.j2",
        report=report,
        outcomes=outcome.outcomes(report),
        quality=_safe(summary.qualities(report)),
        differences=_safe(summary.changes(report)),
        counted=_safe(costs.counted(report)),
        timed=_safe(costs.timed(report)),
        variants=_safe(costs.variants(report)),
        abouts={words.title(figure): words.about(figure) for figure in figures if words.about(figure)},
        limits=limits(report),
        word=words,
    )


def _safe(table: Table) -> Table:
    """Cells that do not end at a bar of their own."""
    return [[cell.replace("|", "\\|") for cell in row] for row in table]
