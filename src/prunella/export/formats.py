"""The forms that a student leaves in, by their names, each as a file or folder of its own."""

from pathlib import Path
from typing import Any, NamedTuple

from prunella.export import onnx, quantized, single_file
from prunella.params import Form

OWN = {"single-file": "fp16", "onnx": "fp32"}  # number formats; beside quantised weights bf16


class Written(NamedTuple):
    """A form that has been written: where, in which number format, and what its writer tells of it."""

    out: Path
    dtype: str
    told: dict[str, Any]


def write_form(form: Form, folder: Path, out: Path, dtype: str | None) -> Written:
    """Write the pipeline `folder` in `form` to the file or folder `out`; `dtype` None is the form's OWN.

    Raises UserError where the form has no such number format, and as its writer does.
    """
    dtype = dtype or OWN.get(form, "bf16")
    if form == "single-file":
        return Written(out, dtype, single_file.write_single_file(folder, out, dtype))
    if form == "onnx":
        onnx.check_dtype(dtype)
        return Written(out, dtype, onnx.write_onnx(folder, out, dtype))
    return Written(out, dtype, quantized.write_quantised(folder, out, form, dtype))


def exported_as(form: Form, student: str) -> str:
    """The name of a student's file or folder: "sd-tiny.safetensors", "sd-tiny-onnx"."""
    return f"{student}.safetensors" if form == "single-file" else f"{student}-{form}"
