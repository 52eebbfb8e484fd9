"""Tables of what each architecture costs; a student's stages share them, and columns without values are left out."""

from collections.abc import Callable
from typing import Any

from prunella.params import parse_quantized_dtype
from prunella.reporting.findings import list_measured_stages, list_report_students
from prunella.reporting.summary import EMPTY, Table

Report = dict[str, Any]
# Key of the figures → head and how a value is written.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "params": ("UNet parameters", lambda v: f"{v / 1e6:,.2f} M"),
    "params_down": ("down", lambda v: f"{v / 1e6:,.2f} M"),
    "params_mid": ("mid", lambda v: f"{v / 1e6:,.2f} M"),
    "params_up": ("up", lambda v: f"{v / 1e6:,.2f} M"),
    "macs_conv_linear": ("GMACs, convolutions and linear", lambda v: f"{v / 1e9:,.3g}"),
    "macs": ("GMACs, attention too", lambda v: f"{v / 1e9:,.3g}"),
    "disk_mb": ("weights on disk, MB", lambda v: f"{v:,.1f}"),
    "latency_ms_p50": ("a picture, ms, median", lambda v: f"{v:,.0f}"),
    "latency_ms_p95": ("95 %", lambda v: f"{v:,.0f}"),
    "speedup": ("times as fast", lambda v: f"{v['value']:.2f} ({v['low']:.2f} to {v['high']:.2f})"),
    "unet_step_ms_p50": ("a UNet step, ms, median", lambda v: f"{v:,.1f}"),
    "unet_step_speedup": ("times as fast", lambda v: f"{v['value']:.2f} ({v['low']:.2f} to {v['high']:.2f})"),
    "pictures_per_second": ("pictures a second", lambda v: f"{v:.3g}"),
    "peak_memory_mb": ("peak while drawing, MB", lambda v: f"{v:,.0f}"),
    "loading_peak_memory_mb": ("peak while loading, MB", lambda v: f"{v:,.0f}"),
    "reserved_memory_mb": ("reserved, MB", lambda v: f"{v:,.0f}"),
    "energy_j": ("energy a picture, J", lambda v: f"{v:,.1f}"),
}
COUNTED_COLUMNS = ("params", "params_down", "params_mid", "params_up", "macs_conv_linear", "macs", "disk_mb")


def build_counted_table(report: Report) -> Table:
    """Table cells, the head first: what is counted, a row an architecture."""
    return _build_cost_table(_select_architectures(report), COUNTED_COLUMNS)


def build_measured_table(report: Report) -> Table:
    """Table cells, the head first: what is measured, a row an architecture."""
    return _build_cost_table(_select_architectures(report), [key for key in COLUMNS if key not in COUNTED_COLUMNS])


def build_variant_table(report: Report) -> Table:
    """Table cells, the head first: the same of other ways to draw, a row a way and architecture; [] where none was."""
    titles = dict.fromkeys(
        title for entry in _select_architectures(report).values() for title in entry.get("variants", {})
    )
    rows = {
        f"{title}: {name}": entry["variants"][title]
        for title in titles
        for name, entry in _select_architectures(report).items()
        if title in entry.get("variants", {})
    }
    return _build_cost_table(rows, [key for key in COLUMNS if key not in COUNTED_COLUMNS]) if rows else []


def _select_architectures(report: Report) -> dict[str, Report]:
    models = report["models"]
    students_first_stage = {
        student: models[f"{student}/{list_measured_stages(report, student)[0]}"]
        for student in list_report_students(report)
    }
    return (
        {"teacher": models["teacher"]}
        | students_first_stage
        | {name: entry for name, entry in models.items() if parse_quantized_dtype(name)}
    )


def _build_cost_table(entries: dict[str, Report], keys: list[str] | tuple[str, ...]) -> Table:
    present_keys = [key for key in keys if any(entry.get(key) is not None for entry in entries.values())]
    rows = [
        [name, *(COLUMNS[key][1](entry[key]) if entry.get(key) is not None else EMPTY for key in present_keys)]
        for name, entry in entries.items()
    ]
    return [["model", *(COLUMNS[key][0] for key in present_keys)], *rows]
