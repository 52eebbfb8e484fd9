"""The original layout of a checkpoint (SD 1.x, 2.x, SDXL), all parts in one state dict, from a diffusers pipeline."""

from torch import Tensor

from prunella.export.ldm_keys import iter_ldm_tensors, iter_open_clip_tensors


def single(pipeline, two: bool = False) -> dict[str, Tensor]:
    """`two`: of an SD pipeline in the layout of SD 2.x, whose text encoder is OpenCLIP's."""
    state = dict(iter_ldm_tensors(pipeline))
    if two:
        state = {key: value for key, value in state.items() if not key.startswith("cond_stage_model.")}
        state |= dict(iter_open_clip_tensors("cond_stage_model", pipeline.text_encoder))
    return {key: value.contiguous() for key, value in state.items()}
