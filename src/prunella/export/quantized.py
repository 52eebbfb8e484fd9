"""A student with a UNet of int8, int4 or fp8 weights, in a folder that stock diffusers loads where torchao is."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.export.folders import check_replaceable, link_files, model_files
from prunella.export.onnx_modules import parts
from prunella.export.single_file import DTYPES
from prunella.models.pipeline import load_pipeline, without_checker
from prunella.models.quantized import load_quantised
from prunella.params import Bits
from prunella.profiling.disk import disk_mb
from prunella.storage.files import atomic_write_text, whole_folder

NOTES = "quantised.json"  # by which such a folder is known
REPLACED = (".safetensors", ".bin", ".index.json", "config.json")  # endings, of the UNet's files
SIZE = (2, (16, 24))  # examples and latents that both UNets are compared on


def write_quantised(folder: Path, out: Path, bits: Bits, dtype: str) -> dict[str, Any]:
    """Write the pipeline `folder` to `out`: the UNet's linear layers in `bits`, its other weights in `dtype`.

    Everything else is linked or copied. Written beside and renamed, after it was loaded again. Returns what its
    quantised.json holds: {"bits", "dtype", "unet_mb", "unet_mb_before", "disk_mb", "disk_mb_before", "quantised": share
    of the UNet's parameters, "difference": of its output from that in fp32, root mean square as a share of fp32's}.
    Raises UserError where torchao has no such weights here, and where `out` holds something else.
    """
    check_replaceable(out, NOTES)
    unet = load_quantised(folder, bits, DTYPES[dtype])
    with whole_folder(out) as half:
        link_files(folder, half, (inside for inside in model_files(folder) if not _of_unet(inside)))
        unet.save_pretrained(half / "unet")
        before, after = disk_mb(folder), disk_mb(half)
        report = {
            "bits": bits,
            "dtype": dtype,
            "unet_mb": after["unet"],
            "unet_mb_before": before["unet"],
            "disk_mb": round(sum(after.values()), 3),
            "disk_mb_before": round(sum(before.values()), 3),
            "quantised": round(_share(unet), 4),
            "difference": _difference(folder, half, DTYPES[dtype]),
        }
        atomic_write_text(half / NOTES, json.dumps(report, indent=1) + "\n")
    return report


def _of_unet(inside: Path) -> bool:
    """Whether it is a file that the quantised UNet replaces."""
    return inside.parts[0] == "unet" and inside.name.endswith(REPLACED)


def _share(unet: UNet2DConditionModel) -> float:
    linear = sum(each.weight.numel() for each in unet.modules() if isinstance(each, torch.nn.Linear))
    return linear / sum(weight.numel() for weight in unet.parameters())


@torch.no_grad()
def _difference(folder: Path, made: Path, dtype: torch.dtype) -> float:
    """Of what was written, as stock diffusers reads it, from the pipeline that it was made of."""
    pipeline = load_pipeline(folder, dtype=torch.float32, **without_checker(folder))
    unet = next(part for part in parts(pipeline) if part.name == "unet")
    given = list(unet.example(*SIZE).values())
    wanted = unet.module(*given)
    pipeline.unet = UNet2DConditionModel.from_pretrained(made / "unet", torch_dtype=dtype)
    found = next(part for part in parts(pipeline) if part.name == "unet").module(*given)
    apart = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    if not math.isfinite(apart):
        raise UserError(f"the UNet gives no number in {dtype}; --dtype bf16 or fp32 may do")
    return apart
