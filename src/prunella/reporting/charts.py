"""Charts as plotly's figures: dicts of "data" and "layout", which the plotly.js within the page draws."""

import csv
from collections.abc import Iterable, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

from prunella.reporting import labels
from prunella.reporting.summary import get_estimate, list_image_metrics
from prunella.sampling.gallery import ALL_STAGES

Figure = dict[str, Any]
Report = dict[str, Any]
Columns = dict[str, list[tuple[float, float]]]

# Of a student, in their order; dark and light pages both show them at 3:1 at least.
COLORS = ("#2f7fd0", "#d8591f", "#2c9a5e", "#9b5fc7", "#b08410", "#c8437f", "#188f93", "#7d7f2a", "#8f6a55")
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
TICK_STEPS = ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8), [x / 2 for x in range(2, 20)])  # of a decade, coarsest first
SMOOTHING_PARTS = 20  # parts of a training over one of which its loss is averaged
# What quality is held against: key of a model's figures → title and what a unit of it is divided by.
COSTS = {
    "latency_ms_p50": ("latency of a picture, ms", 1),
    "params": ("parameters of the UNet, millions", 1e6),
    "disk_mb": ("weights of the pipeline on disk, MB", 1),
    "peak_memory_mb": ("peak memory while drawing, MB", 1),
}


def assign_colors(report: Report) -> dict[str, str]:
    """A colour for each student, and grey for the teacher."""
    students = dict.fromkeys(name.partition("/")[0] for name in report["models"] if name != "teacher")
    return {"teacher": GREY} | {name: COLORS[i % len(COLORS)] for i, name in enumerate(students)}


def make_chart_layout(x: str, y: str, logarithmic: Sequence[float] = (), **kwargs: Any) -> Figure:
    """The layout that all charts share. An axis is logarithmic, and says so, where it is given the values on it."""
    axis: Figure = {"title": {"text": f"{y} (log scale)" if logarithmic else y}}
    if logarithmic:
        axis |= {"type": "log", "tickvals": choose_log_ticks(min(logarithmic), max(logarithmic)), "tickformat": "~g"}
    return {"xaxis": {"title": {"text": x}}, "yaxis": axis} | kwargs


def choose_log_ticks(low: float, high: float) -> list[float]:
    """At least three round numbers about a logarithmic axis from `low` to `high`, both above 0."""
    decades = range(floor(log10(low)) - 1, floor(log10(high)) + 2)
    for tick_steps in TICK_STEPS:
        all_ticks = [float(f"{tick_step}e{decade}") for decade in decades for tick_step in tick_steps]
        if sum(low <= tick <= high for tick in all_ticks) >= 3:
            return all_ticks
    step = 10.0 ** floor(log10(max(high - low, high * 1e-6) / 2))
    return [round(step * i, 12) for i in range(floor(low / step) - 1, floor(high / step) + 3) if step * i > 0]


def plot_tradeoffs(report: Report) -> dict[str, Figure]:
    """A chart of every quality figure against every cost, by "FIGURE|COST"; only such as have values."""
    charts = {}
    for metric in [*list_image_metrics(report["models"]), "output_error"]:
        for cost in COSTS:
            if chart := _plot_tradeoff(report, metric, cost):
                charts[f"{metric}|{cost}"] = chart
    return charts


def _plot_tradeoff(report: Report, metric: str, cost: str) -> Figure | None:
    """A trace for each student, from stage to stage, and the line of those that no other model beats in both."""
    points = [
        (name, entry[cost] / COSTS[cost][1], estimate)
        for name, entry in report["models"].items()
        if entry.get(cost) is not None and (estimate := get_estimate(entry, metric))
    ]
    log_scale = labels.has_log_scale(metric) and all(
        estimate["low"] > 0 for name, _, estimate in points if name != "teacher"
    )
    if log_scale:  # a teacher's error of 0 has no place there
        points = [point for point in points if point[2]["low"] > 0]
    if len(points) < 2:
        return None
    colors = assign_colors(report)
    data = [
        _make_pareto_trace(points, metric),
        *(_make_student_trace(student, points, colors[student]) for student in colors),
    ]
    direction = f" ({labels.get_better_direction(metric)} is better)" if labels.get_better_direction(metric) else ""
    interval_ends = [estimate[end] for _, _, estimate in points for end in ("low", "high")] if log_scale else []
    chart_layout = make_chart_layout(
        COSTS[cost][0] + " (lower is better)", labels.label_metric(metric) + direction, interval_ends
    )
    chart_layout["xaxis"]["rangemode"] = "tozero"
    return {"data": [trace for trace in data if trace], "layout": chart_layout}


def _make_student_trace(student: str, points: list[tuple[str, float, dict]], color: str) -> Figure | None:
    student_points = [
        (name.partition("/")[2], x, estimate) for name, x, estimate in points if name.partition("/")[0] == student
    ]
    if not student_points:
        return None
    return {
        "type": "scatter",
        "mode": "markers+lines" if len(student_points) > 1 else "markers+text",
        "name": student,
        "x": [x for _, x, _ in student_points],
        "y": [estimate["value"] for _, _, estimate in student_points],
        "text": [f"{student}, {labels.label_stage(step)}" if step else student for step, _, _ in student_points],
        "textposition": "top left",
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [estimate["high"] - estimate["value"] for _, _, estimate in student_points],
            "arrayminus": [estimate["value"] - estimate["low"] for _, _, estimate in student_points],
            "thickness": 1.5,
            "width": 5,
        },
        "marker": {
            "size": 12,
            "symbol": [SYMBOLS[step] for step, _, _ in student_points],
            "color": color,
            "line": {"width": 2, "color": color},
        },
        "line": {"color": color, "dash": "dot", "width": 1.5},
        "hovertemplate": "%{text}<br>%{x:.4~g}, %{y:.4~g}<extra></extra>",
    }


def _make_pareto_trace(points: list[tuple[str, float, dict]], metric: str) -> Figure | None:
    """The line through the models that none is both cheaper and better than."""
    if (better := labels.get_better_direction(metric)) is None:
        return None
    sign = 1 if better == "higher" else -1
    front: list[tuple[float, float]] = []
    for _, x, estimate in sorted(points, key=lambda point: (point[1], -sign * point[2]["value"])):
        if not front or sign * estimate["value"] > sign * front[-1][1]:
            front.append((x, estimate["value"]))
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


def plot_output_errors(report: Report) -> Figure:
    """Bars of the output error, by stage, a colour a student."""
    models, colors = report["models"], assign_colors(report)
    data = []
    for student in [name for name in colors if name != "teacher"]:
        estimates = [get_estimate(models.get(f"{student}/{step}", {}), "output_error") for step in ALL_STAGES]
        measured = [
            (labels.label_stage(step), estimate)
            for step, estimate in zip(ALL_STAGES, estimates, strict=True)
            if estimate
        ]
        data.append(
            {
                "type": "bar",
                "name": student,
                "x": [step for step, _ in measured],
                "y": [estimate["value"] for _, estimate in measured],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [estimate["high"] - estimate["value"] for _, estimate in measured],
                    "arrayminus": [estimate["value"] - estimate["low"] for _, estimate in measured],
                    "color": GREY,
                },
                "marker": {"color": colors[student]},
                "hovertemplate": f"{student}, %{{x}}: %{{y:.4~g}}<extra></extra>",
            }
        )
    return {"data": data, "layout": make_chart_layout("stage", "output error (lower is better)", barmode="group")}


def plot_training_curves(folder: Path, students: list[str], base_models: Sequence[str] = ()) -> dict[str, Figure]:
    """Charts of both trainings, a line a student: held-out terms by name, features' mean, and the training loss.

    Those of `students` that are `base_models` have not been distilled here.
    """
    charts: dict[str, Figure] = {}
    for training, title in (("distill", "Distillation"), ("finetune", "Fine-tuning")):
        trained_students = [name for name in students if training == "finetune" or name not in base_models]
        heldout = {
            student: read_curve_columns(folder / training / student / "heldout.csv") for student in trained_students
        }
        for name, lines in _group_by_term(heldout).items():
            charts[f"{title}: held-out {name}"] = _plot_lines(lines, students, f"held-out {name.partition(',')[0]}")
        losses = {s: read_curve_columns(folder / training / s / "train.csv").get("loss", []) for s in trained_students}
        charts[f"{title}: training loss"] = _plot_smoothed_lines(losses, students, "training loss")
    return charts


def _group_by_term(heldout: dict[str, Columns]) -> dict[str, Columns]:
    """{term: {student: line}}: the task's and the output's error, and the mean of all features' terms."""
    terms: dict[str, Columns] = {}
    for student, table in heldout.items():
        for column in ("task", "output"):
            if table.get(column):
                terms.setdefault(labels.label_curve(column), {})[student] = table[column]
        if features := [line for column, line in table.items() if column.startswith("feature/") and line]:
            steps = [sum(y for _, y in values) / len(values) for values in zip(*features, strict=False)]
            mean = [(x, y) for (x, _), y in zip(features[0], steps, strict=False)]
            terms.setdefault("feature error, mean of all blocks", {})[student] = mean
    return terms


def _plot_lines(lines: Columns, students: list[str], y: str) -> Figure:
    data = [
        _make_line_trace(name, lines[name], COLORS[students.index(name) % len(COLORS)], "lines+markers")
        for name in lines
    ]
    return {"data": data, "layout": make_chart_layout("step", y, _log_axis_values(lines.values()))}


def _plot_smoothed_lines(lines: Columns, students: list[str], y: str) -> Figure:
    """Every value pale, and over it the mean of a twentieth of the training."""
    data = []
    for name, line in lines.items():
        color, window = COLORS[students.index(name) % len(COLORS)], max(1, len(line) // SMOOTHING_PARTS)
        values = [value for _, value in line]
        windows = [values[max(0, i - window + 1) : i + 1] for i in range(len(values))]
        smooth = [
            (x, sum(values_in_window) / len(values_in_window))
            for (x, _), values_in_window in zip(line, windows, strict=True)
        ]
        data.append(
            _make_line_trace(name, line, color, "lines") | {"opacity": 0.3, "showlegend": False, "hoverinfo": "skip"}
        )
        data.append(_make_line_trace(name, smooth, color, "lines"))
    return {"data": data, "layout": make_chart_layout("step", f"{y}, averaged", _log_axis_values(lines.values()))}


def _make_line_trace(name: str, line: list[tuple[float, float]], color: str, mode: str) -> Figure:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [x for x, _ in line],
        "y": [float(f"{y:.6g}") for _, y in line],
        "line": {"color": color, "width": 2},
        "marker": {"color": color, "size": 6},
        "hovertemplate": f"{name}, step %{{x}}: %{{y:.4~g}}<extra></extra>",
    }


def _log_axis_values(lines: Iterable[list[tuple[float, float]]]) -> list[float]:
    """All values, where they are better seen on a logarithmic axis: none below 0, the largest twice the least."""
    values = [y for line in lines for _, y in line]
    return values if values and min(values) > 0 and max(values) > 2 * min(values) else []


def read_curve_columns(path: Path) -> Columns:
    """{column: [(step, value), …]} of a training's CSV; {} where there is none."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [name for name in (table[0] if table else {}) if name != "step"]
    return {name: [(float(row["step"]), float(row[name])) for row in table if row[name]] for name in names}
