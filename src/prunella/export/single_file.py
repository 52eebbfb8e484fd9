"""A student as one safetensors file in the original layout."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from prunella.errors import UserError
from prunella.export.ldm_keys import original
from prunella.export.resolve_model import label
from prunella.models.pipeline import load_pipeline, without_checker
from prunella.pruning.plan import BESIDE

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Of Stability's model specification, https://github.com/Stability-AI/ModelSpec (v1.0.0).
SDXL = "stable-diffusion-xl-v1-base"
V_PREDICTION = "v_pred"  # an empty tensor by which ComfyUI tells an SDXL that predicts velocities


def write_single_file(folder: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Write the pipeline folder's UNet, VAE and text encoders to the file `out`; {"tensors", "bytes", "metadata"}.

    All tensors are contiguous and of `dtype` (fp16, bf16, fp32). Written beside and renamed. Raises UserError where a
    number is too large for `dtype`.
    """
    pipeline = load_pipeline(folder, dtype=DTYPES[dtype], **without_checker(folder))
    tensors: dict[str, torch.Tensor] = {}
    for name, value in original(pipeline):
        if not value.isfinite().all():
            raise UserError(f"{dtype} cannot hold {name}, whose numbers are too large; bf16 and fp32 can")
        tensors[name] = value.detach().contiguous()
    metadata = describe(folder, pipeline)
    if metadata["modelspec.architecture"] == SDXL and metadata["modelspec.prediction_type"] == "v":
        tensors[V_PREDICTION] = torch.zeros(0)
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(out.name + ".half")
    save_file(tensors, half, metadata)
    half.replace(out)
    return {"tensors": len(tensors), "bytes": out.stat().st_size, "metadata": metadata}


def describe(folder: Path, pipeline: Any) -> dict[str, str]:
    """The file's metadata: what the model is, by Stability's specification, and the plan that it was made by."""
    unet, scheduler = pipeline.unet.config, pipeline.scheduler.config
    velocities = scheduler.get("prediction_type") == "v_prediction"
    sd2 = "stable-diffusion-v2-768-v" if velocities else "stable-diffusion-v2-512"
    sd = sd2 if unet.use_linear_projection else "stable-diffusion-v1"
    side = unet.sample_size * pipeline.vae_scale_factor
    told = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": SDXL if hasattr(pipeline, "text_encoder_2") else sd,
        "modelspec.implementation": "sgm",
        "modelspec.title": label(folder),
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if velocities else "epsilon",
    }
    plan = folder / "unet" / BESIDE
    return told | ({"prunella.plan": plan.read_text(encoding="utf-8")} if plan.is_file() else {})
