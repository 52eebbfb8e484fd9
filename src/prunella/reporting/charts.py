"""Charts as plotly's figures: dicts of "data" and "layout", which the plotly.js within the page draws."""

import csv
from collections.abc import Iterable, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

from prunella.reporting import labels
from prunella.reporting.summary import metrics, quality
from prunella.sampling.gallery import STAGES

Figure = dict[str, Any]
Report = dict[str, Any]
Columns = dict[str, list[tuple[float, float]]]

# Of a student, in their order; dark and light pages both show them at 3:1 at least.
COLOURS = ("#2f7fd0", "#d8591f", "#2c9a5e", "#9b5fc7", "#b08410", "#c8437f", "#188f93", "#7d7f2a", "#8f6a55")
GREY = "#7d838c"  # the teacher
SYMBOLS = {
    "": "star",
    "base": "star-diamond",
    "pruned": "circle-open",
    "distilled": "circle",
    "finetuned": "diamond",
    "int8": "square",
    "fp8": "square-open",
    "int4": "x",
}
TICKS = ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8), [x / 2 for x in range(2, 20)])  # of a decade, coarsest first
WINDOW = 20  # parts of a training over one of which its loss is averaged
# What quality is held against: key of a model's figures → title and what a unit of it is divided by.
COSTS = {
    "latency_ms_p50": ("latency of a picture, ms", 1),
    "params": ("parameters of the UNet, millions", 1e6),
    "disk_mb": ("weights of the pipeline on disk, MB", 1),
    "peak_memory_mb": ("peak memory while drawing, MB", 1),
}


def colours(report: Report) -> dict[str, str]:
    """A colour for each student, and grey for the teacher."""
    students = dict.fromkeys(name.partition("/")[0] for name in report["models"] if name != "teacher")
    return {"teacher": GREY} | {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(students)}


def layout(x: str, y: str, logarithmic: Sequence[float] = (), **more: Any) -> Figure:
    """The layout that all charts share. An axis is logarithmic, and says so, where it is given the values on it."""
    axis: Figure = {"title": {"text": f"{y} (log scale)" if logarithmic else y}}
    if logarithmic:
        axis |= {"type": "log", "tickvals": ticks(min(logarithmic), max(logarithmic)), "tickformat": "~g"}
    return {"xaxis": {"title": {"text": x}}, "yaxis": axis} | more


def ticks(low: float, high: float) -> list[float]:
    """At least three round numbers about a logarithmic axis from `low` to `high`, both above 0."""
    decades = range(floor(log10(low)) - 1, floor(log10(high)) + 2)
    for parts in TICKS:
        every = [float(f"{part}e{decade}") for decade in decades for part in parts]
        if sum(low <= tick <= high for tick in every) >= 3:
            return every
    step = 10.0 ** floor(log10(max(high - low, high * 1e-6) / 2))
    return [round(step * i, 12) for i in range(floor(low / step) - 1, floor(high / step) + 3) if step * i > 0]


def tradeoffs(report: Report) -> dict[str, Figure]:
    """A chart of every quality figure against every cost, by "FIGURE|COST"; only such as have values."""
    found = {}
    for figure in [*metrics(report["models"]), "output_error"]:
        for cost in COSTS:
            if drawn := _tradeoff(report, figure, cost):
                found[f"{figure}|{cost}"] = drawn
    return found


def _tradeoff(report: Report, figure: str, cost: str) -> Figure | None:
    """A trace for each student, from stage to stage, and the line of those that no other model beats in both."""
    points = [
        (name, entry[cost] / COSTS[cost][1], found)
        for name, entry in report["models"].items()
        if entry.get(cost) is not None and (found := quality(entry, figure))
    ]
    log = labels.logarithmic(figure) and all(found["low"] > 0 for name, _, found in points if name != "teacher")
    if log:  # a teacher's error of 0 has no place there
        points = [point for point in points if point[2]["low"] > 0]
    if len(points) < 2:
        return None
    known = colours(report)
    data = [_front(points, figure), *(_points(student, points, known[student]) for student in known)]
    direction = f" ({labels.better(figure)} is better)" if labels.better(figure) else ""
    ends = [found[end] for _, _, found in points for end in ("low", "high")] if log else []
    shape = layout(COSTS[cost][0] + " (lower is better)", labels.title(figure) + direction, ends)
    shape["xaxis"]["rangemode"] = "tozero"
    return {"data": [trace for trace in data if trace], "layout": shape}


def _points(student: str, points: list[tuple[str, float, dict]], colour: str) -> Figure | None:
    own = [(name.partition("/")[2], x, found) for name, x, found in points if name.partition("/")[0] == student]
    if not own:
        return None
    return {
        "type": "scatter",
        "mode": "markers+lines" if len(own) > 1 else "markers+text",
        "name": student,
        "x": [x for _, x, _ in own],
        "y": [found["value"] for _, _, found in own],
        "text": [f"{student}, {labels.stage(step)}" if step else student for step, _, _ in own],
        "textposition": "top left",
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [found["high"] - found["value"] for _, _, found in own],
            "arrayminus": [found["value"] - found["low"] for _, _, found in own],
            "thickness": 1.5,
            "width": 5,
        },
        "marker": {
            "size": 12,
            "symbol": [SYMBOLS[step] for step, _, _ in own],
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
        "line": {"color": colour, "dash": "dot", "width": 1.5},
        "hovertemplate": "%{text}<br>%{x:.4~g}, %{y:.4~g}<extra></extra>",
    }


def _front(points: list[tuple[str, float, dict]], figure: str) -> Figure | None:
    """The line through the models that none is both cheaper and better than."""
    if (better := labels.better(figure)) is None:
        return None
    sign = 1 if better == "higher" else -1
    front: list[tuple[float, float]] = []
    for _, x, found in sorted(points, key=lambda point: (point[1], -sign * point[2]["value"])):
        if not front or sign * found["value"] > sign * front[-1][1]:
            front.append((x, found["value"]))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "none is cheaper and better",
        "x": [x for x, _ in front],
        "y": [y for _, y in front],
        "line": {"color": GREY, "width": 7, "shape": "hv"},
        "opacity": 0.25,
        "hoverinfo": "skip",
    }


def errors(report: Report) -> Figure:
    """Bars of the output error, by stage, a colour a student."""
    models, known = report["models"], colours(report)
    data = []
    for student in [name for name in known if name != "teacher"]:
        entries = [quality(models.get(f"{student}/{step}", {}), "output_error") for step in STAGES]
        there = [(labels.stage(step), entry) for step, entry in zip(STAGES, entries, strict=True) if entry]
        data.append(
            {
                "type": "bar",
                "name": student,
                "x": [step for step, _ in there],
                "y": [entry["value"] for _, entry in there],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [entry["high"] - entry["value"] for _, entry in there],
                    "arrayminus": [entry["value"] - entry["low"] for _, entry in there],
                    "color": GREY,
                },
                "marker": {"color": known[student]},
                "hovertemplate": f"{student}, %{{x}}: %{{y:.4~g}}<extra></extra>",
            }
        )
    return {"data": data, "layout": layout("stage", "output error (lower is better)", barmode="group")}


def curves(folder: Path, students: list[str], others: Sequence[str] = ()) -> dict[str, Figure]:
    """Charts of both trainings, a line a student: held-out terms by name, features' mean, and the training loss.

    Those of `students` that are `others` have not been distilled here.
    """
    found: dict[str, Figure] = {}
    for training, title in (("distill", "Distillation"), ("finetune", "Fine-tuning")):
        learned = [name for name in students if training == "finetune" or name not in others]
        heldout = {student: columns(folder / training / student / "heldout.csv") for student in learned}
        for name, lines in _by_term(heldout).items():
            found[f"{title}: held-out {name}"] = _lines(lines, students, f"held-out {name.partition(',')[0]}")
        losses = {s: columns(folder / training / s / "train.csv").get("loss", []) for s in learned}
        found[f"{title}: training loss"] = _smoothed(losses, students, "training loss")
    return found


def _by_term(heldout: dict[str, Columns]) -> dict[str, Columns]:
    """{term: {student: line}}: the task's and the output's error, and the mean of all features' terms."""
    terms: dict[str, Columns] = {}
    for student, table in heldout.items():
        for column in ("task", "output"):
            if table.get(column):
                terms.setdefault(labels.curve(column), {})[student] = table[column]
        if features := [line for column, line in table.items() if column.startswith("feature/") and line]:
            steps = [sum(y for _, y in row) / len(row) for row in zip(*features, strict=False)]
            mean = [(x, y) for (x, _), y in zip(features[0], steps, strict=False)]
            terms.setdefault("feature error, mean of all blocks", {})[student] = mean
    return terms


def _lines(lines: Columns, students: list[str], y: str) -> Figure:
    data = [_line(name, lines[name], COLOURS[students.index(name) % len(COLOURS)], "lines+markers") for name in lines]
    return {"data": data, "layout": layout("step", y, _logarithmic(lines.values()))}


def _smoothed(lines: Columns, students: list[str], y: str) -> Figure:
    """Every value pale, and over it the mean of a twentieth of the training."""
    data = []
    for name, line in lines.items():
        colour, window = COLOURS[students.index(name) % len(COLOURS)], max(1, len(line) // WINDOW)
        values = [value for _, value in line]
        parts = [values[max(0, i - window + 1) : i + 1] for i in range(len(values))]
        smooth = [(x, sum(part) / len(part)) for (x, _), part in zip(line, parts, strict=True)]
        data.append(_line(name, line, colour, "lines") | {"opacity": 0.3, "showlegend": False, "hoverinfo": "skip"})
        data.append(_line(name, smooth, colour, "lines"))
    return {"data": data, "layout": layout("step", f"{y}, averaged", _logarithmic(lines.values()))}


def _line(name: str, line: list[tuple[float, float]], colour: str, mode: str) -> Figure:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [x for x, _ in line],
        "y": [float(f"{y:.6g}") for _, y in line],
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6},
        "hovertemplate": f"{name}, step %{{x}}: %{{y:.4~g}}<extra></extra>",
    }


def _logarithmic(lines: Iterable[list[tuple[float, float]]]) -> list[float]:
    """All values, where they are better seen on a logarithmic axis: none below 0, the largest twice the least."""
    values = [y for line in lines for _, y in line]
    return values if values and min(values) > 0 and max(values) > 2 * min(values) else []


def columns(path: Path) -> Columns:
    """{column: [(step, value), …]} of a training's CSV; {} where there is none."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [name for name in (table[0] if table else {}) if name != "step"]
    return {name: [(float(row["step"]), float(row[name])) for row in table if row[name]] for name in names}
