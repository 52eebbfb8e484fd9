"""Prunella: Stable Diffusion checkpoints at half their size, pruned, distilled, measured.

The graph's steps, as functions on folders:

    from prunella import MINIATURE, distill, encode, parameters, prune_folder, sample

    params = parameters(changes={"distill.steps": 100, "students": ["sd-tiny"]})
    latents = encode(params, teacher=MINIATURE, out="data")
    student = prune_folder(params, teacher=MINIATURE, student="sd-tiny", out="pruned")
    report = distill(params, teacher=MINIATURE, latents=latents, student=student, out="distilled")
    sample("distilled", "a small red heart on a grey background")[0].save("heart.png")

With a UNet in memory, `prune(unet, STUDENTS["sd-tiny"])` is all. The names below are loaded when first asked for, so
that `import prunella` needs no torch.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

_EXPORTS = {
    "parameters": "prunella.params.recipes",
    "read_params": "prunella.params",
    "encode": "prunella.api",
    "prune_folder": "prunella.api",
    "distill": "prunella.api",
    "finetune": "prunella.api",
    "load_student": "prunella.api",
    "sample": "prunella.api",
    "STUDENTS": "prunella.pruning.plan",
    "read_plan": "prunella.pruning.plan",
    "student_config": "prunella.pruning.mapping",
    "feature_pairs": "prunella.pruning.mapping",
    "prune": "prunella.pruning.prune",
    "UserError": "prunella.errors",
}
MINIATURE = Path(__file__).parent / "bundled" / "miniature"
"""The pipeline folder of the bundled teacher: a genuine, tiny Stable Diffusion that draws scenes of 64 × 64 pixels."""
__all__ = list(_EXPORTS)
__all__ += ["MINIATURE"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'prunella' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
