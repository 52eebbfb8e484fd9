"""Run by torch's launcher in test_fsdp.py: each process distils, or fine-tunes, with a part of the weights."""

import json
import sys
from pathlib import Path

from diffusers import UNet2DConditionModel

from prunella.compute.device import Placement
from prunella.compute.launch import rank, world_size
from prunella.params import Distill, Finetune, validate_config
from prunella.training.callback import NoCallback
from prunella.training.distill import distill
from prunella.training.finetune import finetune

SECTIONS = {"distill": (Distill, distill), "finetune": (Finetune, finetune)}


def held(unet: UNet2DConditionModel) -> int:
    """How many numbers of its weights are in this process."""
    return sum(getattr(part, "to_local", lambda part=part: part)().numel() for part in unet.parameters())


class Looking(NoCallback):
    """Notes what this process holds of student and teacher."""

    def around_training(self, job, work, resumed, processes):
        self.held = [held(unet) for unet in (job.unet, job.teacher) if unet is not None]
        return super().around_training(job, work, resumed, processes)


def learn(asked: dict, case: dict, out: Path) -> list[int]:
    """Do a case ("section", "content" of it, "placement"); `asked` has the paths. How many numbers were held."""
    kind, stage = SECTIONS[case["section"]]
    stage(
        validate_config(kind, case["content"], case["section"]),
        **{name: Path(path) for name, path in asked.items()},
        out=out / case["name"] / "student",
        curves=out / case["name"] / "curves",
        placement=Placement(**{"fsdp": world_size() > 1} | case["placement"]),
        checkpoint_every=2,
        observer=(look := Looking()),
    )
    return look.held


if __name__ == "__main__":
    asked, cases, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    for case in cases:
        counts = learn(asked, case, out)
        (out / f"{case['name']}-{rank()}.json").write_text(json.dumps(counts))
