"""A student as one safetensors file in the original layout."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from prunella.errors import UserError
from prunella.export.ldm_keys import iter_ldm_tensors
from prunella.export.resolve_model import model_label
from prunella.models.pipeline import load_pipeline, no_safety_checker
from prunella.pruning.plan import PLAN_FILE

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Of Stability's model specification, https://github.com/Stability-AI/ModelSpec (v1.0.0).
SDXL_ARCHITECTURE = "stable-diffusion-xl-v1-base"
V_PREDICTION_KEY = "v_pred"  # an empty tensor by which ComfyUI tells an SDXL that predicts velocities


def write_single_file(folder: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Write the pipeline folder's UNet, VAE and text encoders to the file `out`; {"tensors", "bytes", "metadata"}.

    All tensors are contiguous and of `dtype` (fp16, bf16, fp32). Written beside and renamed. Raises UserError where a
    number is too large for `dtype`.
    """
    pipeline = load_pipeline(folder, dtype=DTYPES[dtype], **no_safety_checker(folder))
    tensors: dict[str, torch.Tensor] = {}
    for name, value in iter_ldm_tensors(pipeline):
        if not value.isfinite().all():
            raise UserError(f"{dtype} cannot hold {name}, whose numbers are too large; bf16 and fp32 can")
        tensors[name] = value.detach().contiguous()
    metadata = build_metadata(folder, pipeline)
    if metadata["modelspec.architecture"] == SDXL_ARCHITECTURE and metadata["modelspec.prediction_type"] == "v":
        tensors[V_PREDICTION_KEY] = torch.zeros(0)
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = out.with_name(out.name + ".half")
    save_file(tensors, tmp_path, metadata)
    tmp_path.replace(out)
    return {"tensors": len(tensors), "bytes": out.stat().st_size, "metadata": metadata}


def build_metadata(folder: Path, pipeline: Any) -> dict[str, str]:
    """The file's metadata: what the model is, by Stability's specification, and the plan that it was made by."""
    unet, scheduler = pipeline.unet.config, pipeline.scheduler.config
    v_prediction = scheduler.get("prediction_type") == "v_prediction"
    sd2_architecture = "stable-diffusion-v2-768-v" if v_prediction else "stable-diffusion-v2-512"
    sd_architecture = sd2_architecture if unet.use_linear_projection else "stable-diffusion-v1"
    image_side = unet.sample_size * pipeline.vae_scale_factor
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": SDXL_ARCHITECTURE if hasattr(pipeline, "text_encoder_2") else sd_architecture,
        "modelspec.implementation": "sgm",
        "modelspec.title": model_label(folder),
        "modelspec.resolution": f"{image_side}x{image_side}",
        "modelspec.prediction_type": "v" if v_prediction else "epsilon",
    }
    plan = folder / "unet" / PLAN_FILE
    return metadata | ({"prunella.plan": plan.read_text(encoding="utf-8")} if plan.is_file() else {})
