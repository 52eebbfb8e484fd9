"""A fine-tuning on this machine's CPU, into a folder of its own."""

from pathlib import Path

from prunella.compute.device import Placement
from prunella.params import Finetune
from prunella.training.finetune import finetune

# A training whose every step is as large as the first, and whose weights are those of the last.
PLAIN = {"ema_decay": 0, "storage": "fp32", "lr_scheduler": "constant", "learning_rate": 1e-2}


def tune(params: Finetune, latents: Path, student: Path, folder: Path, teacher: Path = Path("none"), **more) -> dict:
    return finetune(
        params,
        teacher=teacher,
        latents=latents,
        student=student,
        out=folder / "out",
        curves=folder / "curves",
        placement=Placement(),
        checkpoint_every=1,
        **more,
    )
