"""The short of `reports/benchmark.json`: tables of one row a model, and the few figures to compare runs by."""

from collections.abc import Sequence
from math import floor, log10
from typing import Any

from prunella.reporting import labels

SIZE_COLUMNS = ["UNet parameters", "of the teacher's UNet", "latency, ms"]
Report = dict[str, Any]
Table = list[list[str]]
EMPTY = "–"
NON_IMAGE_ESTIMATES = ("output_error_estimate", "speedup", "unet_step_speedup")  # estimates, but not of pictures


def build_summary_table(report: Report) -> Table:
    """Table cells, the head first: size, latency, and a column for each quality figure that has values."""
    models = report["models"]
    teacher_params, (head, *cells) = models["teacher"]["params"], build_quality_table(report)
    sizes = [
        [
            f"{entry['params'] / 1e6:.2f} M",
            f"{100 * entry['params'] / teacher_params:.1f} %",
            f"{entry['latency_ms_p50']:.0f}",
        ]
        for entry in models.values()
    ]
    sizes += [["", "", ""]] * (len(cells) - len(sizes))  # real pictures have none
    cells_with_sizes = zip(cells, sizes, strict=True)
    return [[head[0], *SIZE_COLUMNS, *head[1:]], *([line[0], *size, *line[1:]] for line, size in cells_with_sizes)]


def build_quality_table(report: Report) -> Table:
    """Table cells of quality alone, the head first: a row a model, a column for each figure that has values."""
    models = report["models"]
    metric_names, floors = ["output_error", *list_image_metrics(models)], report.get("floors", {})
    estimates = {
        labels.label_model(name): [get_estimate(entry, metric) for metric in metric_names]
        for name, entry in models.items()
    }
    if floors:
        estimates["real pictures"] = [floors.get(metric) for metric in metric_names]
    heads, columns = zip(
        *(
            _format_column(*metric_column)
            for metric_column in zip(metric_names, zip(*estimates.values(), strict=True), strict=True)
        ),
        strict=True,
    )
    return [
        ["model", *heads],
        *([name, *line] for name, line in zip(estimates, zip(*columns, strict=True), strict=True)),
    ]


def _format_column(metric: str, column: Sequence[Report | None]) -> tuple[str, list[str]]:
    """A column's head and cells; the number of observations is in the head where all have the same, else in each."""
    counts = {estimate["n"] for estimate in column if estimate}
    if len(counts) == 1:
        return f"{labels.label_metric(metric)}, n = {counts.pop():,}", [
            format_estimate(estimate) for estimate in column
        ]
    return labels.label_metric(metric), [
        f"{format_estimate(estimate)}, n = {estimate['n']:,}" if estimate else EMPTY for estimate in column
    ]


def build_breakdown_tables(report: Report) -> dict[str, Table]:
    """By its caption, a table for each metric with parts, as composition by claim: a row a model, a column a part."""
    models = report["models"]
    metrics_with_parts = [
        name for name in list_image_metrics(models) if any(f"{name}_by" in entry for entry in models.values())
    ]
    return {
        f"{labels.capitalize_first(labels.label_metric(name))} by "
        f"{labels.label_breakdown(name)}": _build_breakdown_table(models, f"{name}_by")
        for name in metrics_with_parts
    }


def _build_breakdown_table(models: dict[str, Report], key: str) -> Table:
    breakdowns = {name: entry[key] for name, entry in models.items() if key in entry}
    names = list(dict.fromkeys(part for breakdown in breakdowns.values() for part in breakdown))
    table_rows = [
        [labels.label_model(name), *(format_estimate(breakdown.get(part)) for part in names)]
        for name, breakdown in breakdowns.items()
    ]
    return [["model", *names], *table_rows]


def build_difference_table(report: Report) -> Table:
    """Table cells of the paired differences between models, the head first; [] where there are none."""
    lines = _list_differences(report)
    names = list(dict.fromkeys(name for _, entry in lines for name, difference in entry.items() if "low" in difference))
    cells = [[line, *(format_estimate(entry.get(name)) for name in names)] for line, entry in lines]
    return [["paired difference", *map(labels.label_metric, names)], *cells] if cells else []


def build_difference_breakdown_tables(report: Report) -> dict[str, Table]:
    """By its caption, a table for each figure whose paired differences are measured by part, as by timesteps."""
    lines = _list_differences(report)
    breakdown_keys = dict.fromkeys(name for _, entry in lines for name in entry if name.endswith("_by"))
    tables = {}
    for breakdown_key in breakdown_keys:
        metric = breakdown_key.removesuffix("_by")
        rows = [(line, entry[breakdown_key]) for line, entry in lines if breakdown_key in entry]
        tables[f"Paired difference of {labels.label_metric(metric)} by {labels.label_breakdown(metric)}"] = (
            _build_difference_breakdown(rows)
        )
    return tables


def _build_difference_breakdown(lines: list[tuple[str, Report]]) -> Table:
    names = list(dict.fromkeys(part for _, breakdown in lines for part in breakdown))
    return [
        ["paired difference", *names],
        *([line, *(format_estimate(breakdown.get(each)) for each in names)] for line, breakdown in lines),
    ]


def _list_differences(report: Report) -> list[tuple[str, Report]]:
    """(what is subtracted from what, its estimates); some of the pairs alone ("on_…") are lines of their own."""
    lines = []
    for model_pair, entry in report.get("differences", {}).items():
        name = " − ".join(map(labels.label_model, model_pair.split(" - ")))
        lines.append((name, {key: difference for key, difference in entry.items() if not key.startswith("on_")}))
        lines += [
            (f"{name}, {labels.label_subset(key)}", difference)
            for key, difference in entry.items()
            if key.startswith("on_")
        ]
    return lines


def get_estimate(entry: Report, metric: str) -> Report | None:
    """A model's estimate of a quality figure, as {"value", "n", "low", "high"}; None where it has none."""
    return entry.get("output_error_estimate" if metric == "output_error" else metric)


def list_image_metrics(models: dict[str, Report]) -> list[str]:
    """The metrics of pictures that any model has, in the order of the first that has them."""
    metric_names = [
        name
        for entry in models.values()
        for name, value in entry.items()
        if isinstance(value, dict) and "low" in value and name not in NON_IMAGE_ESTIMATES
    ]
    return list(dict.fromkeys(metric_names))


def format_estimate(estimate_dict: dict[str, Any] | None) -> str:
    """A value with its interval, to two significant digits of the interval's half width."""
    if estimate_dict is None:
        return EMPTY
    half_width = (estimate_dict["high"] - estimate_dict["low"]) / 2
    digits = min(max(1 - floor(log10(half_width)), 0), 6) if half_width > 0 else 4
    value, low, high = (f"{round(estimate_dict[name], digits) + 0.0:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if half_width > 0 else value


def format_summary_text(report: Report) -> str:
    """The table for a terminal."""
    return format_table(build_summary_table(report))


def format_table(cells: Table) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def extract_headline(report: Report) -> dict[str, dict[str, float]]:
    """{"sd-small": {"output_error_distilled": …, "composition_distilled": …, "latency_ms": …, …}, "teacher": …}."""
    figures: dict[str, dict[str, float]] = {}
    metric_names = list_image_metrics(report["models"])
    for name, entry in report["models"].items():
        model, _, stage = name.partition("/")
        model_figures = figures.setdefault(
            model, {"params_m": round(entry["params"] / 1e6, 2), "latency_ms": entry["latency_ms_p50"]}
        )
        if stage and "output_error" in entry:
            model_figures[f"output_error_{stage}"] = round(entry["output_error"], 5)
        for metric in metric_names:
            if metric in entry:
                model_figures["_".join(filter(None, (metric, stage)))] = entry[metric]["value"]
    return figures
