"""The short of `reports/benchmark.json`: a table of one row a model, and the few figures to compare runs by."""

HEAD = ["model", "parameters", "of teacher", "latency ms", "output error", "score", "Fréchet"]


def rows(report: dict) -> list[list[str]]:
    """Table cells, the head first."""
    models = report["models"]
    whole = models["teacher"]["params"]
    cells = [
        [
            name,
            f"{entry['params'] / 1e6:.2f} M",
            f"{100 * entry['params'] / whole:.1f} %",
            f"{entry['latency_ms_p50']:.0f}",
            f"{entry['output_error']:.4f}",
            _score(entry.get("composition")),
            _distance(entry.get("frechet")),
        ]
        for name, entry in models.items()
    ]
    floor = report.get("frechet_floor")
    return [HEAD, *cells] + ([["real pictures", "", "", "", "", "", _distance(floor["value"])]] if floor else [])


def claims(report: dict) -> list[list[str]]:
    """Table cells of the judge's score by claim, the head first; no rows where nothing was judged."""
    judged = {name: entry["composition_by"] for name, entry in report["models"].items() if "composition_by" in entry}
    names = list(dict.fromkeys(claim for by in judged.values() for claim in by))
    shares = [[name, *(_score(by.get(claim)) for claim in names)] for name, by in judged.items()]
    return [["claim true in", *names], *shares] if judged else []


def _score(share: dict | None) -> str:
    if share is None:
        return "–"
    return f"{share['value']:.2f} ({share['low']:.2f}–{share['high']:.2f})"


def _distance(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def text(report: dict) -> str:
    """The table for a terminal."""
    return aligned(rows(report))


def aligned(cells: list[list[str]]) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def headline(report: dict) -> dict[str, dict[str, float]]:
    """{"sd-small": {"output_error_distilled": …, "score_distilled": …, "latency_ms": …, …}, "teacher": …}."""
    figures: dict[str, dict[str, float]] = {}
    for name, entry in report["models"].items():
        model, _, stage = name.partition("/")
        mine = figures.setdefault(
            model, {"params_m": round(entry["params"] / 1e6, 2), "latency_ms": entry["latency_ms_p50"]}
        )
        if stage:
            mine[f"output_error_{stage}"] = round(entry["output_error"], 5)
        if "composition" in entry:
            mine["_".join(filter(None, ("score", stage)))] = entry["composition"]["value"]
    return figures
