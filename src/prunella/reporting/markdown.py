"""`reports/summary.md`: the report in short, as Markdown, for model cards and pull requests."""

from typing import Any

from prunella.reporting import cost_tables, findings, labels, summary
from prunella.reporting.caveats import list_caveats
from prunella.reporting.render import render_text
from prunella.reporting.summary import Table


def render_summary_markdown(report: dict[str, Any]) -> str:
    """The whole text; its pictures are in `images/` beside it."""
    metrics = ["output_error", *summary.list_image_metrics(report["models"])]
    return render_text(
        "summary.md.j2",
        report=report,
        outcomes=findings.summarize_students(report),
        quality=_escape_bars(summary.build_quality_table(report)),
        differences=_escape_bars(summary.build_difference_table(report)),
        counted=_escape_bars(cost_tables.build_counted_table(report)),
        timed=_escape_bars(cost_tables.build_measured_table(report)),
        variants=_escape_bars(cost_tables.build_variant_table(report)),
        abouts={
            labels.label_metric(metric): labels.describe_metric(metric)
            for metric in metrics
            if labels.describe_metric(metric)
        },
        limits=list_caveats(report),
        word=labels,
    )


def _escape_bars(table: Table) -> Table:
    """Cells that do not end at a bar of their own."""
    return [[cell.replace("|", "\\|") for cell in row] for row in table]
