"""Run by torch's launcher in test_fsdp.py: each process distils, or fine-tunes, with a part of the weights."""

import json
import sys
from pathlib import Path

from prunella.compute.device import Placement
from prunella.compute.launch import size
from prunella.params import Distill, Finetune, check
from prunella.training.distill import distill
from prunella.training.finetune import finetune

CHECKPOINT = 2


def learn(asked: dict, case: dict, out: Path) -> dict:
    """What a case ("section", its content, fields of the placement) gives; `asked` has the paths."""
    kind, stage = (Distill, distill) if case["section"] == "distill" else (Finetune, finetune)
    return stage(
        check(kind, case["content"], case["section"]),
        **{name: Path(path) for name, path in asked.items()},
        out=out / case["name"] / "student",
        curves=out / case["name"] / "curves",
        placement=Placement(fsdp=size() > 1, **case["placement"]),
        checkpoint_every=CHECKPOINT,
    )


if __name__ == "__main__":
    asked, cases, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    for case in cases:
        learn(asked, case, out)
