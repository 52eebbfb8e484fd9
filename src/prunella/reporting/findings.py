"""What was won and what was lost, student by student: the head of every report."""

from typing import Any

from prunella.reporting import labels
from prunella.reporting.summary import estimate, metrics, quality
from prunella.sampling.gallery import STAGES

Report = dict[str, Any]
# What is won: key of a model's figures → its word, what it is a share of, and unit and divisor of the amounts.
SIZES = {
    "params": ("UNet", "of the teacher's UNet", "M parameters", 1e6),
    "disk_mb": ("on disk", "of the teacher's files, whole pipeline", "MB", 1),
    "peak_memory_mb": ("memory", "of the teacher's peak memory while drawing", "MB", 1),
}

UNCLEAR = "unclear"  # a speed whose interval holds 1


def students(report: Report) -> list[str]:
    """The students of a report, in its order."""
    return list(dict.fromkeys(name.partition("/")[0] for name in report["models"] if name != "teacher"))


def stages(report: Report, student: str) -> list[str]:
    """The stages at which a student was measured."""
    return [stage for stage in STAGES if f"{student}/{stage}" in report["models"]]


def outcomes(report: Report) -> list[dict[str, Any]]:
    """{"student", "won", "lost", "sentence"} of each student."""
    return [
        {
            "student": student,
            "won": won(report, student),
            "lost": [found for figure in _measured(report) if (found := lost(report, student, figure))],
            "sentence": sentence(report, student),
        }
        for student in students(report)
    ]


def won(report: Report, student: str) -> list[dict[str, str]]:
    """{"word", "value", "detail"} of everything that is less, or faster, than the teacher's."""
    teacher, own = report["models"]["teacher"], report["models"][f"{student}/{stages(report, student)[0]}"]
    value, detail = _speed(teacher, own)
    found = [{"word": "speed", "value": value, "detail": detail}]
    for key, (word, of, unit, divisor) in SIZES.items():
        if teacher.get(key) and own.get(key) is not None:
            amounts = f"{_short(own[key] / divisor)} of {_short(teacher[key] / divisor)} {unit}"
            share = f"{100 * own[key] / teacher[key]:.0f} %"
            found.append({"word": word, "value": share, "detail": f"{of}: {amounts}"})
    return [*found[1:3], found[0], *found[3:]]


def _speed(teacher: Report, own: Report) -> tuple[str, str]:
    times = f"{own['latency_ms_p50']:.0f} instead of {teacher['latency_ms_p50']:.0f} ms a picture"
    if found := own.get("speedup"):
        spread = f"{found['low']:.2f} to {found['high']:.2f} in {found['n']} rounds"
        if found["low"] <= 1 <= found["high"]:
            return UNCLEAR, f"{found['value']:.2f} × as fast ({spread}), so no difference is shown: {times}"
        return f"{found['value']:.2f} ×", f"as fast ({spread}): {times}"
    return f"{teacher['latency_ms_p50'] / own['latency_ms_p50']:.2f} ×", f"as fast: {times}"


def lost(report: Report, student: str, figure: str) -> dict[str, Any] | None:
    """A quality figure of the teacher and of each of a student's stages; None where the student has none.

    "verdict" is of the paired difference from the teacher: only an interval without zero is a difference. "tuned" has
    what fine-tuning changed.
    """
    models = report["models"]
    theirs = None if figure == "output_error" else quality(models["teacher"], figure)  # to itself it is 0
    rows: list[dict[str, Any]] = [{"model": "teacher", "found": theirs, "verdict": ""}]
    for stage in stages(report, student):
        name = f"{student}/{stage}"
        entry = {"model": labels.stage(stage), "found": quality(models[name], figure)}
        rows.append(entry | {"verdict": verdict(report, f"{name} - teacher", figure)})
    rows = [row | {"text": estimate(row["found"])} for row in rows if row["found"]]
    if not [row for row in rows if row["model"] != "teacher"]:
        return None
    better, about = labels.better(figure), labels.about(figure)
    found = {"figure": figure, "title": labels.title(figure), "better": better, "about": about, "rows": rows}
    return found | {"tuned": tuned(report, student, figure)}


def tuned(report: Report, student: str, figure: str) -> list[str]:
    """What fine-tuning changed in a figure, paired: on the captions with its words, and on the others."""
    before = "base" if f"{student}/base" in report["models"] else "distilled"
    changed = report.get("differences", {}).get(f"{student}/finetuned - {student}/{before}", {})
    parts = {labels.some(name): found.get(figure) for name, found in changed.items() if name.startswith("on_")}
    return [f"{name}: {_said(found, figure)}" for name, found in parts.items() if found]


def verdict(report: Report, pair: str, figure: str) -> str:
    """What a paired difference says, in words; "" where it was not measured."""
    found = report.get("differences", {}).get(pair, {}).get(figure)
    return "" if found is None else _said(found, figure)


def _said(found: Report, figure: str) -> str:
    if not found.get("different", not found["low"] <= 0 <= found["high"]):
        return f"no difference shown: {estimate(found)}, n = {found['n']}"
    better = labels.better(figure)
    side = "" if better is None else (", better" if (found["value"] > 0) == (better == "higher") else ", worse")
    return f"differs by {estimate(found)}, n = {found['n']}{side}"


def sentence(report: Report, student: str) -> str:
    """The outcome in one sentence, of the student after distillation."""
    facts = {each["word"]: each["value"] for each in won(report, student)}
    parts = [f"{facts[word]} of the {what}" for word, what in (("UNet", "UNet"), ("on disk", "files")) if word in facts]
    parts.append(_faster(report, student, facts["speed"]))
    text = f"{student}: {', '.join(parts)}"
    steps = report.get("training", {}).get(student, {}).get("distill", {})
    after = f" after {steps['steps']:,} steps of distillation" if steps.get("steps") else " after distillation"
    if (figure := main_figure(report)) and (found := lost(report, student, figure)):
        texts = {row["model"]: row["text"] for row in found["rows"]}
        if "distilled" in texts:
            whole = f", the teacher {texts['teacher']}" if "teacher" in texts and figure != "output_error" else ""
            text += f"; {found['title']} {texts['distilled']}{after}{whole}"
    return f"{text}."


def _faster(report: Report, student: str, speed: str) -> str:
    found = report["models"][f"{student}/{stages(report, student)[0]}"].get("speedup")
    spread = f" ({found['low']:.2f} to {found['high']:.2f})" if found else ""
    if found and speed == UNCLEAR:
        return f"no difference in speed shown: {found['value']:.2f} times{spread}"
    return f"{speed.removesuffix(' ×')} times as fast{spread}"


def main_figure(report: Report) -> str | None:
    """The quality that the head of the report names: the first metric that is known to have a better side."""
    return next((figure for figure in _measured(report)[1:] + _measured(report)[:1] if labels.better(figure)), None)


def _measured(report: Report) -> list[str]:
    return ["output_error", *metrics(report["models"])]


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
