"""Prunella: Stable Diffusion checkpoints at half their size, pruned, distilled, measured.

The names below are loaded when first asked for, so that `import prunella` needs no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "STUDENTS": "prunella.pruning.plan",
    "read_plan": "prunella.pruning.plan",
    "student_config": "prunella.pruning.mapping",
    "feature_pairs": "prunella.pruning.mapping",
    "prune": "prunella.pruning.prune",
    "distill": "prunella.training.distill",
    "finetune": "prunella.training.finetune",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prunella' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
