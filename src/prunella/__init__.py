"""Prunella: Stable Diffusion checkpoints at half their size, pruned, distilled, measured.

The names below are loaded when first asked for, so that `import prunella` needs no torch.
"""

from importlib import import_module

_HOMES = {
    "STUDENTS": "prunella.students.plan",
    "read_plan": "prunella.students.plan",
    "student_config": "prunella.students.derive",
    "feature_pairs": "prunella.students.derive",
    "prune": "prunella.students.pruning",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'prunella' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
