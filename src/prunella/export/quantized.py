"""A student with a UNet of int8, int4 or fp8 weights, in a folder that stock diffusers loads where torchao is."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.export.folders import check_replaceable, iter_model_files, link_files
from prunella.export.onnx_modules import build_onnx_modules
from prunella.export.single_file import DTYPES
from prunella.models.pipeline import load_pipeline, no_safety_checker
from prunella.models.quantized import load_quantized_unet
from prunella.params import QuantizedDtype
from prunella.profiling.disk import measure_disk_mb
from prunella.storage.files import atomic_folder, atomic_write_text

REPORT_FILE = "quantised.json"  # by which such a folder is known
REPLACED_SUFFIXES = (".safetensors", ".bin", ".index.json", "config.json")  # endings, of the UNet's files
COMPARISON_SHAPE = (2, (16, 24))  # examples and latents that both UNets are compared on


def write_quantized_export(folder: Path, out: Path, bits: QuantizedDtype, dtype: str) -> dict[str, Any]:
    """Write the pipeline `folder` to `out`: the UNet's linear layers in `bits`, its other weights in `dtype`.

    Everything else is linked or copied. Written beside and renamed, after it was loaded again. Returns what its
    quantised.json holds: {"bits", "dtype", "unet_mb", "unet_mb_before", "disk_mb", "disk_mb_before", "quantised": share
    of the UNet's parameters, "difference": of its output from that in fp32, root mean square as a share of fp32's}.
    Raises UserError where torchao has no such weights here, and where `out` holds something else.
    """
    check_replaceable(out, REPORT_FILE)
    unet = load_quantized_unet(folder, bits, DTYPES[dtype])
    with atomic_folder(out) as tmp_dir:
        link_files(
            folder,
            tmp_dir,
            (relative_path for relative_path in iter_model_files(folder) if not _is_unet_file(relative_path)),
        )
        unet.save_pretrained(tmp_dir / "unet")
        sizes_before, sizes_after = measure_disk_mb(folder), measure_disk_mb(tmp_dir)
        report = {
            "bits": bits,
            "dtype": dtype,
            "unet_mb": sizes_after["unet"],
            "unet_mb_before": sizes_before["unet"],
            "disk_mb": round(sum(sizes_after.values()), 3),
            "disk_mb_before": round(sum(sizes_before.values()), 3),
            "quantised": round(_compute_quantized_fraction(unet), 4),
            "difference": _quantization_error(folder, tmp_dir, DTYPES[dtype]),
        }
        atomic_write_text(tmp_dir / REPORT_FILE, json.dumps(report, indent=1) + "\n")
    return report


def _is_unet_file(relative_path: Path) -> bool:
    """Whether it is a file that the quantised UNet replaces."""
    return relative_path.parts[0] == "unet" and relative_path.name.endswith(REPLACED_SUFFIXES)


def _compute_quantized_fraction(unet: UNet2DConditionModel) -> float:
    num_linear = sum(module.weight.numel() for module in unet.modules() if isinstance(module, torch.nn.Linear))
    return num_linear / sum(weight.numel() for weight in unet.parameters())


@torch.no_grad()
def _quantization_error(folder: Path, export_dir: Path, dtype: torch.dtype) -> float:
    """Reads what was written, as stock diffusers reads it, from the pipeline that it was made of."""
    pipeline = load_pipeline(folder, dtype=torch.float32, **no_safety_checker(folder))
    unet_module = next(onnx_module for onnx_module in build_onnx_modules(pipeline) if onnx_module.name == "unet")
    inputs = list(unet_module.example_inputs(*COMPARISON_SHAPE).values())
    expected = unet_module.module(*inputs)
    pipeline.unet = UNet2DConditionModel.from_pretrained(export_dir / "unet", torch_dtype=dtype)
    actual = next(onnx_module for onnx_module in build_onnx_modules(pipeline) if onnx_module.name == "unet").module(
        *inputs
    )
    relative_error = float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    if not math.isfinite(relative_error):
        raise UserError(f"the UNet gives no number in {dtype}; --dtype bf16 or fp32 may do")
    return relative_error
