"""Gains and losses, student by student: the head of every report."""

from typing import Any

from prunella.reporting import labels
from prunella.reporting.summary import format_estimate, get_estimate, list_image_metrics
from prunella.sampling.gallery import ALL_STAGES

Report = dict[str, Any]
# What is won: key of a model's figures → its word, what it is a share of, and unit and divisor of the amounts.
SIZE_METRICS = {
    "params": ("UNet", "of the teacher's UNet", "M parameters", 1e6),
    "disk_mb": ("on disk", "of the teacher's files, whole pipeline", "MB", 1),
    "peak_memory_mb": ("memory", "of the teacher's peak memory while drawing", "MB", 1),
}

NO_CLEAR_SPEEDUP = "unclear"  # a speed whose interval holds 1


def list_report_students(report: Report) -> list[str]:
    """The students of a report, in its order."""
    return list(dict.fromkeys(name.partition("/")[0] for name in report["models"] if name != "teacher"))


def list_measured_stages(report: Report, student: str) -> list[str]:
    """The stages at which a student was measured."""
    return [stage for stage in ALL_STAGES if f"{student}/{stage}" in report["models"]]


def summarize_students(report: Report) -> list[dict[str, Any]]:
    """{"student", "won", "lost", "sentence"} of each student."""
    return [
        {
            "student": student,
            "won": compute_gains(report, student),
            "lost": [
                change
                for metric in _list_quality_metrics(report)
                if (change := compute_quality_change(report, student, metric))
            ],
            "sentence": format_student_sentence(report, student),
        }
        for student in list_report_students(report)
    ]


def compute_gains(report: Report, student: str) -> list[dict[str, str]]:
    """{"word", "value", "detail"} of everything that is less, or faster, than the teacher's."""
    teacher, student_costs = (
        report["models"]["teacher"],
        report["models"][f"{student}/{list_measured_stages(report, student)[0]}"],
    )
    value, detail = _compare_speed(teacher, student_costs)
    gains = [{"word": "speed", "value": value, "detail": detail}]
    for key, (label, reference, unit, divisor) in SIZE_METRICS.items():
        if teacher.get(key) and student_costs.get(key) is not None:
            amounts = (
                f"{_format_amount(student_costs[key] / divisor)} of {_format_amount(teacher[key] / divisor)} {unit}"
            )
            percent = f"{100 * student_costs[key] / teacher[key]:.0f} %"
            gains.append({"word": label, "value": percent, "detail": f"{reference}: {amounts}"})
    return [*gains[1:3], gains[0], *gains[3:]]


def _compare_speed(teacher_costs: Report, student_costs: Report) -> tuple[str, str]:
    times_text = f"{student_costs['latency_ms_p50']:.0f} instead of {teacher_costs['latency_ms_p50']:.0f} ms a picture"
    if speedup := student_costs.get("speedup"):
        interval_text = f"{speedup['low']:.2f} to {speedup['high']:.2f} in {speedup['n']} rounds"
        if speedup["low"] <= 1 <= speedup["high"]:
            return (
                NO_CLEAR_SPEEDUP,
                f"{speedup['value']:.2f} × as fast ({interval_text}), so no difference is shown: {times_text}",
            )
        return f"{speedup['value']:.2f} ×", f"as fast ({interval_text}): {times_text}"
    return f"{teacher_costs['latency_ms_p50'] / student_costs['latency_ms_p50']:.2f} ×", f"as fast: {times_text}"


def compute_quality_change(report: Report, student: str, metric: str) -> dict[str, Any] | None:
    """A quality figure of the teacher and of each of a student's stages; None where the student has none.

    "verdict" is of the paired difference from the teacher: only an interval without zero is a difference. "tuned" has
    what fine-tuning changed.
    """
    models = report["models"]
    teacher_estimate = (
        None if metric == "output_error" else get_estimate(models["teacher"], metric)
    )  # to itself it is 0
    rows: list[dict[str, Any]] = [{"model": "teacher", "found": teacher_estimate, "verdict": ""}]
    for stage in list_measured_stages(report, student):
        name = f"{student}/{stage}"
        entry = {"model": labels.label_stage(stage), "found": get_estimate(models[name], metric)}
        rows.append(entry | {"verdict": describe_paired_difference(report, f"{name} - teacher", metric)})
    rows = [row | {"text": format_estimate(row["found"])} for row in rows if row["found"]]
    if not [row for row in rows if row["model"] != "teacher"]:
        return None
    better, description = labels.get_better_direction(metric), labels.describe_metric(metric)
    summary = {
        "figure": metric,
        "title": labels.label_metric(metric),
        "better": better,
        "about": description,
        "rows": rows,
    }
    return summary | {"tuned": describe_finetuning(report, student, metric)}


def describe_finetuning(report: Report, student: str, metric: str) -> list[str]:
    """The change by fine-tuning in a figure, paired: on the captions with its words, and on the others."""
    previous_stage = "base" if f"{student}/base" in report["models"] else "distilled"
    differences = report.get("differences", {}).get(f"{student}/finetuned - {student}/{previous_stage}", {})
    subset_differences = {
        labels.label_subset(name): difference.get(metric)
        for name, difference in differences.items()
        if name.startswith("on_")
    }
    return [
        f"{name}: {_format_difference(difference, metric)}"
        for name, difference in subset_differences.items()
        if difference
    ]


def describe_paired_difference(report: Report, model_pair: str, metric: str) -> str:
    """A paired difference in words; "" where it was not measured."""
    difference = report.get("differences", {}).get(model_pair, {}).get(metric)
    return "" if difference is None else _format_difference(difference, metric)


def _format_difference(difference: Report, metric: str) -> str:
    if not difference.get("different", not difference["low"] <= 0 <= difference["high"]):
        return f"no difference shown: {format_estimate(difference)}, n = {difference['n']}"
    better = labels.get_better_direction(metric)
    direction_text = (
        "" if better is None else (", better" if (difference["value"] > 0) == (better == "higher") else ", worse")
    )
    return f"differs by {format_estimate(difference)}, n = {difference['n']}{direction_text}"


def format_student_sentence(report: Report, student: str) -> str:
    """The outcome in one sentence, of the student after distillation."""
    gains = {gain["word"]: gain["value"] for gain in compute_gains(report, student)}
    parts = [
        f"{gains[label]} of the {noun}" for label, noun in (("UNet", "UNet"), ("on disk", "files")) if label in gains
    ]
    parts.append(_describe_speedup(report, student, gains["speed"]))
    text = f"{student}: {', '.join(parts)}"
    steps = report.get("training", {}).get(student, {}).get("distill", {})
    training_text = f" after {steps['steps']:,} steps of distillation" if steps.get("steps") else " after distillation"
    if (metric := select_main_metric(report)) and (change := compute_quality_change(report, student, metric)):
        texts = {row["model"]: row["text"] for row in change["rows"]}
        if "distilled" in texts:
            teacher_text = (
                f", the teacher {texts['teacher']}" if "teacher" in texts and metric != "output_error" else ""
            )
            text += f"; {change['title']} {texts['distilled']}{training_text}{teacher_text}"
    return f"{text}."


def _describe_speedup(report: Report, student: str, speed: str) -> str:
    speedup = report["models"][f"{student}/{list_measured_stages(report, student)[0]}"].get("speedup")
    interval_text = f" ({speedup['low']:.2f} to {speedup['high']:.2f})" if speedup else ""
    if speedup and speed == NO_CLEAR_SPEEDUP:
        return f"no difference in speed shown: {speedup['value']:.2f} times{interval_text}"
    return f"{speed.removesuffix(' ×')} times as fast{interval_text}"


def select_main_metric(report: Report) -> str | None:
    """The quality that the head of the report names: the first metric that is known to have a better side."""
    return next(
        (
            metric
            for metric in _list_quality_metrics(report)[1:] + _list_quality_metrics(report)[:1]
            if labels.get_better_direction(metric)
        ),
        None,
    )


def _list_quality_metrics(report: Report) -> list[str]:
    return ["output_error", *list_image_metrics(report["models"])]


def _format_amount(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
