"""Limits of a report, said in it."""

from typing import Any

from prunella.reporting import labels
from prunella.reporting.findings import select_main_metric
from prunella.reporting.summary import get_estimate, list_image_metrics

MAX_LATENCY_SPREAD = 1.5  # times the median, above which a round was disturbed
MODEL_FREE_METRICS = {"composition", "latent_kid", "latent_frechet"}
Report = dict[str, Any]


def list_caveats(report: Report) -> list[str]:
    """A sentence for each limit that holds for this run."""
    settings = report["settings"]
    caveats = [
        "Each student was trained once. How far another seed would end is in no interval here.",
        "The safety checker is left out wherever pictures are drawn or costs are measured; saved folders keep the "
        "teacher's, where it has one.",
    ]
    if report.get("teacher", {}).get("source") == "bundled":
        caveats.insert(
            0,
            "The teacher is the bundled miniature, which draws small scenes. The run shows that the workflow works; "
            "how a student of a published checkpoint would fare it does not show.",
        )
    if layout_name := report.get("teacher", {}).get("layout"):
        caveats.append(
            f"The teacher is itself a student, of the layout of {layout_name}. Shares and differences here are of that "
            "teacher; plans are drawn, and published shares are, of the whole model that such a student is made from."
        )
    if set(list_image_metrics(report["models"])) <= MODEL_FREE_METRICS:
        caveats.append(
            "No network has looked at the pictures: how good they look and how well they fit their prompts is measured "
            "by metrics that need one, such as clip_score and kid (benchmark.metrics, docs/evaluation.md)."
        )
    if interval_caveat := _describe_wide_interval(report):
        caveats.append(interval_caveat)
    if settings.get("latency_rounds", 20) < 20:
        rounds = settings["latency_rounds"]
        caveats.append(f"Latency is of {rounds} rounds: its 95th percentile is the largest of them.")
    if latency_caveat := _describe_busy_machine(report):
        caveats.append(latency_caveat)
    if report["hardware"]["device"] == "cpu":
        caveats.append(
            "Latency and memory are of a CPU. Which share of them a GPU would save is another question; peak memory "
            "is the process's resident memory above what it held before."
        )
    return caveats


def _describe_wide_interval(report: Report) -> str:
    """How uncertain the main quality figure is, where its interval is wide against the teacher's value."""
    metric = select_main_metric(report)
    estimate = get_estimate(report["models"]["teacher"], metric) if metric else None
    if not estimate or not estimate["value"] or estimate["high"] - estimate["low"] < abs(estimate["value"]) / 10:
        return ""
    half_width = (estimate["high"] - estimate["low"]) / 2
    return (
        f"{labels.capitalize_first(labels.label_metric(str(metric)))} is of {estimate['n']:,} pictures, so that of "
        "the teacher is known to "
        f"± {half_width:.2g}; smaller differences need more pictures (benchmark.prompts)."
    )


def _describe_busy_machine(report: Report) -> str:
    """The conclusion from latencies of one model that are far apart say."""
    timed_models = [model for model in report["models"].values() if "latency_ms_p95" in model]
    max_spread = max((model["latency_ms_p95"] / model["latency_ms_p50"] for model in timed_models), default=1.0)
    if max_spread < MAX_LATENCY_SPREAD:
        return ""
    return (
        f"Rounds of one model took up to {max_spread:.1f} times its median latency, so the machine had other work. "
        "`dvc repro --force cost` measures it again, and `dvc repro` puts that into this report."
    )
