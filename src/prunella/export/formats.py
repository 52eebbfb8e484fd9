"""The forms that a student leaves in, by their names, each as a file or folder of its own."""

from pathlib import Path
from typing import Any, NamedTuple

from prunella.export import onnx, quantized, single_file
from prunella.params import ExportFormat

DEFAULT_DTYPES = {"single-file": "fp16", "onnx": "fp32"}  # number formats; beside quantised weights bf16


class ExportResult(NamedTuple):
    """A form that has been written: where, in which number format, and what its writer tells of it."""

    out: Path
    dtype: str
    details: dict[str, Any]


def write_export(export_format: ExportFormat, folder: Path, out: Path, dtype: str | None) -> ExportResult:
    """Write the pipeline `folder` in `export_format` to the file or folder `out`; `dtype` None is the form's OWN.

    Raises UserError where the form has no such number format, and as its writer does.
    """
    dtype = dtype or DEFAULT_DTYPES.get(export_format, "bf16")
    if export_format == "single-file":
        return ExportResult(out, dtype, single_file.write_single_file(folder, out, dtype))
    if export_format == "onnx":
        onnx.check_onnx_dtype(dtype)
        return ExportResult(out, dtype, onnx.write_onnx(folder, out, dtype))
    return ExportResult(out, dtype, quantized.write_quantized_export(folder, out, export_format, dtype))


def export_file_name(export_format: ExportFormat, student: str) -> str:
    """The name of a student's file or folder: "sd-tiny.safetensors", "sd-tiny-onnx"."""
    return f"{student}.safetensors" if export_format == "single-file" else f"{student}-{export_format}"
