"""The short of `reports/benchmark.json`: tables of one row a model, and the few figures to compare runs by."""

from collections.abc import Sequence
from math import floor, log10
from typing import Any

from prunella.reporting import labels

SIZES = ["UNet parameters", "of the teacher's UNet", "latency, ms"]
Report = dict[str, Any]
Table = list[list[str]]
EMPTY = "–"
NO_METRICS = ("output_error_estimate", "speedup", "unet_step_speedup")  # estimates, but not of pictures


def rows(report: Report) -> Table:
    """Table cells, the head first: size, latency, and a column for each quality figure that has values."""
    models = report["models"]
    whole, (head, *cells) = models["teacher"]["params"], qualities(report)
    sizes = [
        [f"{entry['params'] / 1e6:.2f} M", f"{100 * entry['params'] / whole:.1f} %", f"{entry['latency_ms_p50']:.0f}"]
        for entry in models.values()
    ]
    sizes += [["", "", ""]] * (len(cells) - len(sizes))  # real pictures have none
    both = zip(cells, sizes, strict=True)
    return [[head[0], *SIZES, *head[1:]], *([line[0], *size, *line[1:]] for line, size in both)]


def qualities(report: Report) -> Table:
    """Table cells of quality alone, the head first: a row a model, a column for each figure that has values."""
    models = report["models"]
    figures, floors = ["output_error", *metrics(models)], report.get("floors", {})
    found = {labels.model(name): [quality(entry, figure) for figure in figures] for name, entry in models.items()}
    if floors:
        found["real pictures"] = [floors.get(figure) for figure in figures]
    heads, columns = zip(
        *(_column(*pair) for pair in zip(figures, zip(*found.values(), strict=True), strict=True)), strict=True
    )
    return [["model", *heads], *([name, *line] for name, line in zip(found, zip(*columns, strict=True), strict=True))]


def _column(figure: str, column: Sequence[Report | None]) -> tuple[str, list[str]]:
    """A column's head and cells; the number of observations is in the head where all have the same, else in each."""
    counts = {found["n"] for found in column if found}
    if len(counts) == 1:
        return f"{labels.title(figure)}, n = {counts.pop():,}", [estimate(found) for found in column]
    return labels.title(figure), [f"{estimate(found)}, n = {found['n']:,}" if found else EMPTY for found in column]


def by_part(report: Report) -> dict[str, Table]:
    """By its caption, a table for each metric with parts, as composition by claim: a row a model, a column a part."""
    models = report["models"]
    there = [name for name in metrics(models) if any(f"{name}_by" in entry for entry in models.values())]
    return {
        f"{labels.begun(labels.title(name))} by {labels.parts(name)}": _parts(models, f"{name}_by") for name in there
    }


def _parts(models: dict[str, Report], kind: str) -> Table:
    measured = {name: entry[kind] for name, entry in models.items() if kind in entry}
    names = list(dict.fromkeys(part for parts in measured.values() for part in parts))
    shares = [[labels.model(name), *(estimate(parts.get(part)) for part in names)] for name, parts in measured.items()]
    return [["model", *names], *shares]


def changes(report: Report) -> Table:
    """Table cells of the paired differences between models, the head first; [] where there are none."""
    lines = _differences(report)
    names = list(dict.fromkeys(name for _, entry in lines for name, found in entry.items() if "low" in found))
    cells = [[line, *(estimate(entry.get(name)) for name in names)] for line, entry in lines]
    return [["paired difference", *map(labels.title, names)], *cells] if cells else []


def changes_by(report: Report) -> dict[str, Table]:
    """By its caption, a table for each figure whose paired differences are measured by part, as by timesteps."""
    lines = _differences(report)
    kinds = dict.fromkeys(name for _, entry in lines for name in entry if name.endswith("_by"))
    tables = {}
    for kind in kinds:
        figure = kind.removesuffix("_by")
        rows = [(line, entry[kind]) for line, entry in lines if kind in entry]
        tables[f"Paired difference of {labels.title(figure)} by {labels.parts(figure)}"] = _changes_by(rows)
    return tables


def _changes_by(lines: list[tuple[str, Report]]) -> Table:
    names = list(dict.fromkeys(part for _, parts in lines for part in parts))
    return [
        ["paired difference", *names],
        *([line, *(estimate(parts.get(each)) for each in names)] for line, parts in lines),
    ]


def _differences(report: Report) -> list[tuple[str, Report]]:
    """(what is subtracted from what, its estimates); some of the pairs alone ("on_…") are lines of their own."""
    lines = []
    for pair, entry in report.get("differences", {}).items():
        name = " − ".join(map(labels.model, pair.split(" - ")))
        lines.append((name, {key: found for key, found in entry.items() if not key.startswith("on_")}))
        lines += [(f"{name}, {labels.some(key)}", found) for key, found in entry.items() if key.startswith("on_")]
    return lines


def quality(entry: Report, figure: str) -> Report | None:
    """A model's estimate of a quality figure, as {"value", "n", "low", "high"}; None where it has none."""
    return entry.get("output_error_estimate" if figure == "output_error" else figure)


def metrics(models: dict[str, Report]) -> list[str]:
    """The metrics of pictures that any model has, in the order of the first that has them."""
    known = [
        name
        for entry in models.values()
        for name, value in entry.items()
        if isinstance(value, dict) and "low" in value and name not in NO_METRICS
    ]
    return list(dict.fromkeys(known))


def estimate(found: dict[str, Any] | None) -> str:
    """A value with its interval, to two significant digits of the interval's half width."""
    if found is None:
        return EMPTY
    half = (found["high"] - found["low"]) / 2
    digits = min(max(1 - floor(log10(half)), 0), 6) if half > 0 else 4
    value, low, high = (f"{round(found[name], digits) + 0.0:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if half > 0 else value


def text(report: Report) -> str:
    """The table for a terminal."""
    return aligned(rows(report))


def aligned(cells: Table) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def headline(report: Report) -> dict[str, dict[str, float]]:
    """{"sd-small": {"output_error_distilled": …, "composition_distilled": …, "latency_ms": …, …}, "teacher": …}."""
    figures: dict[str, dict[str, float]] = {}
    measured = metrics(report["models"])
    for name, entry in report["models"].items():
        model, _, stage = name.partition("/")
        mine = figures.setdefault(
            model, {"params_m": round(entry["params"] / 1e6, 2), "latency_ms": entry["latency_ms_p50"]}
        )
        if stage and "output_error" in entry:
            mine[f"output_error_{stage}"] = round(entry["output_error"], 5)
        for metric in measured:
            if metric in entry:
                mine["_".join(filter(None, (metric, stage)))] = entry[metric]["value"]
    return figures
