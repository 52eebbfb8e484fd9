"""`reports/summary.md`: the report in short, as Markdown, for model cards and pull requests."""

from typing import Any

from prunella.reporting import cost_tables, findings, labels, summary
from prunella.reporting.caveats import limits
from prunella.reporting.render import render_text
from prunella.reporting.summary import Table


def markdown(report: dict[str, Any]) -> str:
    """The whole text; its pictures are in `images/` beside it."""
    figures = ["output_error", *summary.metrics(report["models"])]
    return render_text(
        "summary.md.j2",
        report=report,
        outcomes=findings.outcomes(report),
        quality=_safe(summary.qualities(report)),
        differences=_safe(summary.changes(report)),
        counted=_safe(cost_tables.counted(report)),
        timed=_safe(cost_tables.timed(report)),
        variants=_safe(cost_tables.variants(report)),
        abouts={labels.title(figure): labels.about(figure) for figure in figures if labels.about(figure)},
        limits=limits(report),
        word=labels,
    )


def _safe(table: Table) -> Table:
    """Cells that do not end at a bar of their own."""
    return [[cell.replace("|", "\\|") for cell in row] for row in table]
