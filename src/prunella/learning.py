"""Distil and fine-tune: the two trainings of a student, which differ in their loss and in their data only."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prunella.drawing import draw, grid
from prunella.errors import UserError
from prunella.fingerprint import work_folder
from prunella.journal import Journal, Mirror
from prunella.latents.shards import Latents
from prunella.params import Distill, Finetune
from prunella.students.derive import feature_pairs
from prunella.students.plan import BESIDE, read_plan
from prunella.teachers import load_pipeline, load_scheduler, load_unet, save_pipeline
from prunella.training import checkpoints
from prunella.training.batches import heldout_batches, training_batches
from prunella.training.loop import averaged, ema_weights, train
from prunella.training.losses import Distillation, Task
from prunella.training.measuring import heldout_terms

PICTURES = 8


class Data(NamedTuple):
    """What is learned from and what is held out; `among` and `heldout_among` restrict them to some pairs."""

    train: Latents
    heldout: Latents
    among: np.ndarray | None = None
    heldout_among: np.ndarray | None = None

    @property
    def prompts(self) -> list[str]:
        """A few held-out captions to draw."""
        captions = self.heldout.captions
        chosen = range(len(captions)) if self.heldout_among is None else self.heldout_among
        return [captions[i] for i in chosen][:PICTURES]


def distill(
    params: Distill, teacher: Path, latents: Path, student: Path, out: Path, curves: Path, device: str, mirror: Mirror
) -> dict:
    """Teach the pruned `student` folder with the `teacher` folder; write the pipeline `out` and return the report."""
    unet, scheduler = load_unet(student, device), load_scheduler(teacher)
    pairs = feature_pairs(read_plan(student / "unet" / BESIDE), params.features)
    loss = Distillation(load_unet(teacher, device), pairs, scheduler, params)
    work = work_folder("distill", params.model_dump(), [student, latents / "manifest.json", teacher / "unet"])
    data = Data(Latents(latents, "train"), Latents(latents, "heldout"))
    return _learn(unet, loss, params, data, student, out, curves, work, mirror)


def finetune(
    params: Finetune, latents: Path, student: Path, out: Path, curves: Path, device: str, mirror: Mirror
) -> dict:
    """Train the `student` folder on pairs whose caption holds one of `params.words`; write `out`, return the report."""
    unet, scheduler = load_unet(student, device), load_scheduler(student)
    train_pairs, heldout = Latents(latents, "train"), Latents(latents, "heldout")
    data = Data(train_pairs, heldout, about(train_pairs.captions, params.words), about(heldout.captions, params.words))
    if not len(data.among):
        raise UserError(
            f"finetune.words: none of {len(train_pairs)} captions holds any of {params.words}; [] takes all pairs"
        )
    work = work_folder("finetune", params.model_dump(), [student, latents / "manifest.json"])
    report = _learn(unet, Task(scheduler), params, data, student, out, curves, work, mirror)
    return {**report, "pairs": len(data.among)}


def about(captions: list[str], words: list[str]) -> np.ndarray:
    """Indices of the captions that hold one of `words` as a whole word; of all without words."""
    wanted = {word.lower() for word in words}
    if not wanted:
        return np.arange(len(captions))
    found = [
        i for i, text in enumerate(captions) if {part.strip(".,;:!?()\"'") for part in text.lower().split()} & wanted
    ]
    return np.array(found, dtype=int)


def _learn(
    unet: nn.Module,
    loss: Callable[[nn.Module, dict], dict[str, Tensor]],
    params: Distill | Finetune,
    data: Data,
    student: Path,
    out: Path,
    curves: Path,
    work: Path,
    mirror: Mirror,
) -> dict:
    last = load_scheduler(student).config.num_train_timesteps
    batches = training_batches(data.train, params.batch_size, params.seed, params.caption_dropout, last, data.among)
    ema, journal = averaged(unet, params), Journal(work / "metrics.jsonl", mirror)
    pipeline = load_pipeline(student, str(unet.device))
    pipeline.unet = unet

    def watch(done: int) -> None:
        """Held-out values and pictures, where they are due; at step 0 and at the last they always are."""
        ends = done in (0, params.steps)
        with ema_weights(unet, ema):
            if ends or done % params.evaluate_every == 0:
                held = heldout_batches(data.heldout, params.batch_size, last, data.heldout_among)
                journal.metrics(done, "heldout", heldout_terms(unet, loss, held))
            if ends or done % params.picture_every == 0:
                drawn = list(draw(pipeline, data.prompts, steps=10, guidance=3.0, seed=0, batch_size=PICTURES))
                journal.picture(done, "samples", grid({f"step {done}": drawn}))

    resumed = checkpoints.newest(work)
    journal.resume(resumed)
    if not resumed:
        watch(0)
    began = time.time()
    for done, values in train(unet, loss, batches, params, folder=work, ema=ema, title=type(params).__name__.lower()):
        journal.metrics(done, "train", values)
        watch(done)
    seconds = time.time() - began
    if ema:
        ema.copy_to(unet.parameters())
    save_pipeline(student, unet, out, params.storage)
    if (plan := student / "unet" / BESIDE).is_file():
        shutil.copy2(plan, out / "unet" / BESIDE)
    for split in ("train", "heldout"):
        journal.table(split, curves / f"{split}.csv")
    heldout, train_rows = journal.rows("heldout"), journal.rows("train")
    report = {
        "steps": params.steps,
        "images_per_second": round((params.steps - resumed) * params.batch_size / seconds, 2),
        "seconds": round(seconds, 1),
        "peak_memory_mb": _peak_memory(),
        "train": _values(train_rows),
        "heldout": _values(heldout),
    }
    shutil.rmtree(work)
    return report


def _values(rows: list[dict]) -> dict[str, float]:
    """The last row's measurements."""
    return {name: value for name, value in rows[-1].items() if name not in ("step", "split")} if rows else {}


def _peak_memory() -> float:
    """MB at the highest so far: of the GPU's allocator, or of this process where there is no GPU."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    import resource
    import sys

    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1
    )
