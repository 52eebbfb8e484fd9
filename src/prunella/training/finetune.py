"""Fine-tuning: a student trains on a narrow domain."""

from pathlib import Path

import numpy as np

from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Finetune
from prunella.training.job import TrainingJob, run_job, state_folder
from prunella.training.losses import TASK, Task
from prunella.training.observer import Observer
from prunella.training.validation import Data


def finetune(
    params: Finetune,
    *,
    latents: Path,
    student: Path,
    out: Path,
    curves: Path,
    placement: Placement,
    checkpoint_every: int,
    observer: Observer | None = None,
) -> dict:
    """Train the `student` folder on pairs whose caption holds one of `params.words`; write `out`, return the report."""
    train_pairs, heldout = open_latents(latents, student, placement.device, params.precision)
    among = tuple(caption_contains(pairs.captions, params.words) for pairs in (train_pairs, heldout))
    if not len(among[0]):
        raise UserError(
            f"finetune.words: none of {len(train_pairs)} captions holds any of {params.words}; [] takes all pairs"
        )
    inputs = [student, latents / "manifest.json"]
    with state_folder("finetune", params, inputs, continuable=params.schedule == "constant") as work:
        job = TrainingJob(
            title="finetune",
            unet=load_unet(student, placement.device),
            loss=Task(load_scheduler(student), params.snr_gamma),
            params=params,
            data=Data(train_pairs, heldout, *among),
            student=student,
            placement=placement,
            decided_by=TASK,
            checkpoint_every=checkpoint_every,
        )
        report = run_job(job, out=out, curves=curves, work=work, observer=observer)
    return {**report, "pairs": len(among[0])}


def caption_contains(captions: list[str], words: list[str]) -> np.ndarray:
    """Indices of the captions that hold one of `words` as a whole word; of all without words."""
    wanted = {word.lower() for word in words}
    if not wanted:
        return np.arange(len(captions))
    found = [
        i for i, text in enumerate(captions) if {part.strip(".,;:!?()\"'") for part in text.lower().split()} & wanted
    ]
    return np.array(found, dtype=int)
