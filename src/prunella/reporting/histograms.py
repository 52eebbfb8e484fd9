"""Histograms of the pairs that the filter has kept: sizes, proportions, captions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from prunella.reporting.charts import COLOURS, Figure, layout

BINS = 30


def histograms(pairs: Path) -> dict[str, Figure]:
    """Charts by title, of the manifest folder `pairs`; what is the same for all pairs has none."""
    counts: dict[str, Counter[float]] = {}
    with (pairs / "pairs.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            for name, value in _facts(json.loads(line)).items():
                counts.setdefault(name, Counter())[value] += 1
    return {name: _bars(name, counted) for name, counted in counts.items() if len(counted) > 1}


def _facts(pair: dict[str, Any]) -> dict[str, float]:
    longer, shorter = max(pair["width"], pair["height"]), min(pair["width"], pair["height"])
    text = pair["text"] if isinstance(pair["text"], str) else pair["text"][0]
    return {
        "shorter side, pixels": shorter,
        "longer side over shorter": round(longer / shorter, 2),
        "words in the caption": len(text.split()),
    }


def _bars(name: str, counted: Counter[float]) -> Figure:
    """A bar a value where they are few, else a bar a bin."""
    values = np.array(sorted(counted))
    heights = np.array([counted[value] for value in values.tolist()])
    if len(values) > BINS:
        found, edges = np.histogram(values, BINS, weights=heights)
        values, heights = (edges[1:] + edges[:-1]) / 2, found
    bars = {
        "type": "bar",
        "name": "pairs",
        "x": [float(f"{value:.4g}") for value in values],
        "y": [int(height) for height in heights],
        "marker": {"color": COLOURS[0]},
        "hovertemplate": "%{x}: %{y:,} pairs<extra></extra>",
    }
    return {"data": [bars], "layout": layout(name, "pairs kept", showlegend=False)}
