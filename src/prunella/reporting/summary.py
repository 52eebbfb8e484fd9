"""The short of `reports/benchmark.json`: a table of one row a model, and the few figures to compare runs by."""

from math import floor, log10
from typing import Any

HEAD = ["model", "parameters", "of teacher", "latency ms"]
ERROR = "output error"
Report = dict[str, Any]
Table = list[list[str]]
EMPTY = "–"


def rows(report: Report) -> Table:
    """Table cells, the head first: size, latency, output error, and a column for each metric that has values."""
    models = report["models"]
    whole = models["teacher"]["params"]
    metrics = _metrics(models)
    cells = [
        [
            name,
            f"{entry['params'] / 1e6:.2f} M",
            f"{100 * entry['params'] / whole:.1f} %",
            f"{entry['latency_ms_p50']:.0f}",
            estimate(entry.get("output_error_estimate")),
            *(estimate(entry.get(metric)) for metric in metrics),
        ]
        for name, entry in models.items()
    ]
    floors = report.get("floors", {})
    real = [["real pictures", "", "", "", "", *(estimate(floors.get(metric)) for metric in metrics)]] if floors else []
    return [[*HEAD, ERROR, *map(_title, metrics)], *cells, *real]


def by_part(report: Report) -> list[Table]:
    """A table for each metric with parts, as composition by claim: a row a model, a column a part, the head first."""
    models = report["models"]
    kinds = dict.fromkeys(name for entry in models.values() for name in entry if name.endswith("_by"))
    return [_parts(models, kind) for kind in kinds]


def _parts(models: dict[str, Report], kind: str) -> Table:
    measured = {name: entry[kind] for name, entry in models.items() if kind in entry}
    names = list(dict.fromkeys(part for parts in measured.values() for part in parts))
    shares = [[name, *(estimate(parts.get(part)) for part in names)] for name, parts in measured.items()]
    return [[f"{_title(kind.removesuffix('_by'))} by", *names], *shares]


def changes(report: Report) -> Table:
    """Table cells of the paired differences between a student's stages, the head first; [] where there are none."""
    measured = report.get("differences", {})
    names = list(dict.fromkeys(metric for entry in measured.values() for metric in entry))
    cells = [[name, *(estimate(entry.get(metric)) for metric in names)] for name, entry in measured.items()]
    return [["paired difference", *map(_title, names)], *cells] if cells else []


def _metrics(models: dict[str, Report]) -> list[str]:
    """The metrics that any model has, in the order of the first that has them."""
    known = [
        name
        for entry in models.values()
        for name, value in entry.items()
        if isinstance(value, dict) and "low" in value and name != "output_error_estimate"
    ]
    return list(dict.fromkeys(known))


def _title(metric: str) -> str:
    return metric.replace("_", " ").replace(" kid", " KID")


def estimate(found: dict[str, Any] | None) -> str:
    """A value with its interval, to two significant digits of the interval's half width."""
    if found is None:
        return EMPTY
    half = (found["high"] - found["low"]) / 2
    digits = min(max(1 - floor(log10(half)), 0), 6) if half > 0 else 4
    value, low, high = (f"{found[name]:.{digits}f}" for name in ("value", "low", "high"))
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
    metrics = _metrics(report["models"])
    for name, entry in report["models"].items():
        model, _, stage = name.partition("/")
        mine = figures.setdefault(
            model, {"params_m": round(entry["params"] / 1e6, 2), "latency_ms": entry["latency_ms_p50"]}
        )
        if stage:
            mine[f"output_error_{stage}"] = round(entry["output_error"], 5)
        for metric in metrics:
            if metric in entry:
                mine["_".join(filter(None, (metric, stage)))] = entry[metric]["value"]
    return figures
