"""The forms that a student leaves in, by their names, each as a file or folder of its own."""

from pathlib import Path
from typing import Any

from prunella.export.onnx import write_onnx
from prunella.export.quantised import write_quantised
from prunella.export.single_file import write_single_file
from prunella.params import Form


def write_form(form: Form, folder: Path, out: Path, dtype: str | None) -> dict[str, Any]:
    """Write the pipeline `folder` in `form` to the file or folder `out`; what is known of it, by the form's writer.

    `dtype` None is the form's own: fp16 for a single file, fp32 for ONNX, bf16 beside quantised weights.
    """
    if form == "single-file":
        return write_single_file(folder, out, dtype or "fp16")
    if form == "onnx":
        return write_onnx(folder, out, dtype or "fp32")
    return write_quantised(folder, out, form, dtype or "bf16")


def exported_as(form: Form, student: str) -> str:
    """The name of a student's file or folder: "sd-tiny.safetensors", "sd-tiny-onnx"."""
    return f"{student}.safetensors" if form == "single-file" else f"{student}-{form}"
