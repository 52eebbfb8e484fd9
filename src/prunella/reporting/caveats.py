"""What a report cannot say, said in it."""

from typing import Any

from prunella.reporting import labels
from prunella.reporting.findings import main_figure
from prunella.reporting.summary import metrics, quality

BUSY = 1.5  # times the median, above which a round was disturbed
UNLEARNED = {"composition", "latent_kid", "latent_frechet"}
Report = dict[str, Any]


def limits(report: Report) -> list[str]:
    """A sentence for each limit that holds for this run."""
    settings = report["settings"]
    found = [
        "Each student was trained once. How far another seed would end is in no interval here.",
        "The safety checker is left out wherever pictures are drawn or costs are measured; saved folders keep the "
        "teacher's, where it has one.",
    ]
    if report.get("teacher", {}).get("source") == "bundled":
        found.insert(
            0,
            "The teacher is the bundled miniature, which draws small scenes. The run shows that the workflow works; "
            "how a student of a published checkpoint would fare it does not show.",
        )
    if known := report.get("teacher", {}).get("layout"):
        found.append(
            f"The teacher is itself a student, of the layout of {known}. Shares and differences here are of that "
            "teacher; plans are drawn, and published shares are, of the whole model that such a student is made from."
        )
    if set(metrics(report["models"])) <= UNLEARNED:
        found.append(
            "No network has looked at the pictures: how good they look and how well they fit their prompts is measured "
            "by metrics that need one, such as clip_score and kid (benchmark.metrics, docs/evaluation.md)."
        )
    if wide := _wide(report):
        found.append(wide)
    if settings.get("latency_rounds", 20) < 20:
        rounds = settings["latency_rounds"]
        found.append(f"Latency is of {rounds} rounds: its 95th percentile is the largest of them.")
    if busy := _busy(report):
        found.append(busy)
    if report["hardware"]["device"] == "cpu":
        found.append(
            "Latency and memory are of a CPU. Which share of them a GPU would save is another question; peak memory "
            "is the process's resident memory above what it held before."
        )
    return found


def _wide(report: Report) -> str:
    """How uncertain the main quality figure is, where its interval is wide against the teacher's value."""
    figure = main_figure(report)
    found = quality(report["models"]["teacher"], figure) if figure else None
    if not found or not found["value"] or found["high"] - found["low"] < abs(found["value"]) / 10:
        return ""
    half = (found["high"] - found["low"]) / 2
    return (
        f"{labels.begun(labels.title(str(figure)))} is of {found['n']:,} pictures, so that of the teacher is known to "
        f"± {half:.2g}; smaller differences need more pictures (benchmark.prompts)."
    )


def _busy(report: Report) -> str:
    """What latencies of one model that are far apart say."""
    known = [each for each in report["models"].values() if "latency_ms_p95" in each]
    worst = max((each["latency_ms_p95"] / each["latency_ms_p50"] for each in known), default=1.0)
    if worst < BUSY:
        return ""
    return (
        f"Rounds of one model took up to {worst:.1f} times its median latency, so the machine had other work. "
        "`dvc repro --force cost` measures it again, and `dvc repro` puts that into this report."
    )
