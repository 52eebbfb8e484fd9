"""Histograms of the pairs that the filter has kept: sizes, proportions, captions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from prunella.reporting.charts import COLORS, Figure, make_chart_layout

MAX_BINS = 30


def plot_sample_histograms(manifest_dir: Path) -> dict[str, Figure]:
    """Charts by title, of the manifest folder `manifest_dir`; what is the same for all pairs has none."""
    counts: dict[str, Counter[float]] = {}
    with (manifest_dir / "pairs.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            for name, value in _measure_sample(json.loads(line)).items():
                counts.setdefault(name, Counter())[value] += 1
    return {name: _plot_bars(name, counter) for name, counter in counts.items() if len(counter) > 1}


def _measure_sample(sample: dict[str, Any]) -> dict[str, float]:
    longer_side, shorter_side = max(sample["width"], sample["height"]), min(sample["width"], sample["height"])
    text = sample["text"] if isinstance(sample["text"], str) else sample["text"][0]
    return {
        "shorter side, pixels": shorter_side,
        "longer side over shorter": round(longer_side / shorter_side, 2),
        "words in the caption": len(text.split()),
    }


def _plot_bars(name: str, counter: Counter[float]) -> Figure:
    """A bar a value where they are few, else a bar a bin."""
    values = np.array(sorted(counter))
    heights = np.array([counter[value] for value in values.tolist()])
    if len(values) > MAX_BINS:
        bin_counts, edges = np.histogram(values, MAX_BINS, weights=heights)
        values, heights = (edges[1:] + edges[:-1]) / 2, bin_counts
    bars = {
        "type": "bar",
        "name": "pairs",
        "x": [float(f"{value:.4g}") for value in values],
        "y": [int(height) for height in heights],
        "marker": {"color": COLORS[0]},
        "hovertemplate": "%{x}: %{y:,} pairs<extra></extra>",
    }
    return {"data": [bars], "layout": make_chart_layout(name, "pairs kept", showlegend=False)}
