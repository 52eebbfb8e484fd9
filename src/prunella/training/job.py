"""Distil and fine-tune: the two trainings of a student, which differ in their loss and in their data only."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prunella.compute import distributed
from prunella.compute.device import Placement, placed
from prunella.compute.launch import rank, size
from prunella.compute.precision import BITS
from prunella.compute.workdir import DONE, resume_dir
from prunella.errors import UserError
from prunella.files import atomic_write_text
from prunella.latents.encoders import open_latents
from prunella.models.families import plain
from prunella.models.pipeline import load_pipeline, load_scheduler, load_unet, save_pipeline, save_unet
from prunella.params import Distill, Finetune, Learning
from prunella.pruning.mapping import FeaturePair, feature_pairs
from prunella.pruning.plan import BESIDE, read_plan
from prunella.tracking.memory import Example, Subject
from prunella.tracking.preflight import FIRST, TrainingEstimate
from prunella.training import checkpoint
from prunella.training.batch import training_batches
from prunella.training.loop import averaged, train
from prunella.training.losses import OUTPUT, TASK, Distillation, Task
from prunella.training.metrics_log import MetricsLog, Tracker
from prunella.training.validation import Data, Watch

SECONDS = "seconds"  # of a step, batch and checkpoint included


def distill(
    params: Distill,
    teacher: Path,
    latents: Path,
    student: Path,
    out: Path,
    curves: Path,
    place: Placement,
    mirror: Tracker,
) -> dict:
    """Teach the pruned `student` folder with the `teacher` folder; write the pipeline `out` and return the report."""
    pairs = tuple(feature_pairs(read_plan(student / "unet" / BESIDE), params.features))
    data = Data(*open_latents(latents, teacher, place.device))
    inputs = [student, latents / "manifest.json", teacher / "unet"]
    with resume_dir("distill", params.model_dump(), inputs, first=rank() == 0) as work:
        unet, taught_by = load_unet(student, place.device), load_unet(teacher, place.device)
        loss = Distillation(taught_by, list(pairs), load_scheduler(teacher), params)
        with (
            placed(taught_by, [pair.teacher for pair in pairs], place),
            placed(unet, [pair.student for pair in pairs], place),
        ):
            lesson = TrainingJob("distill", unet, loss, params, data, student, place, OUTPUT, taught_by, pairs)
            return _learn(lesson, out, curves, work, mirror)


def finetune(
    params: Finetune, latents: Path, student: Path, out: Path, curves: Path, place: Placement, mirror: Tracker
) -> dict:
    """Train the `student` folder on pairs whose caption holds one of `params.words`; write `out`, return the report."""
    train_pairs, heldout = open_latents(latents, student, place.device)
    data = Data(train_pairs, heldout, about(train_pairs.captions, params.words), about(heldout.captions, params.words))
    if not len(data.among):
        raise UserError(
            f"finetune.words: none of {len(train_pairs)} captions holds any of {params.words}; [] takes all pairs"
        )
    inputs = [student, latents / "manifest.json"]
    with resume_dir("finetune", params.model_dump(), inputs, first=rank() == 0) as work:
        unet, loss = load_unet(student, place.device), Task(load_scheduler(student), params.snr_gamma)
        with placed(unet, [], place):
            lesson = TrainingJob("finetune", unet, loss, params, data, student, place, TASK)
            report = _learn(lesson, out, curves, work, mirror)
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


class TrainingJob(NamedTuple):
    """A training of a student: what learns, from what, and how."""

    title: str
    unet: nn.Module
    loss: Callable[[nn.Module, dict], dict[str, Tensor]]
    params: Learning
    data: Data
    student: Path  # the pipeline folder that the UNet is from
    place: Placement
    decided_by: str  # the held-out term that says which weights are best
    teacher: nn.Module | None = None
    pairs: tuple[FeaturePair, ...] = ()


def _learn(lesson: TrainingJob, out: Path, curves: Path, work: Path, mirror: Tracker) -> dict:
    title, unet, loss, params, data = lesson[:5]
    team = distributed.team(unet.device)
    team.wait_for_everyone()  # the first process may have waited for the folder
    last = load_scheduler(lesson.student).config.num_train_timesteps
    batches = training_batches(data.train, _share(params, team.num_processes), params, last, data.among)
    ema = averaged(unet, params)
    if params.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if lesson.teacher is not None and params.precision in BITS:
        lesson.teacher.to(BITS[params.precision])  # it only computes, which autocast would do in these bits anyway
    resumed = checkpoint.newest(work)
    pipeline = load_pipeline(lesson.student, lesson.place.device, unet=unet) if team.is_main_process else None
    outlook = _outlook(lesson, pipeline, team.num_processes)
    if team.is_main_process:  # which alone writes and draws
        journal = MetricsLog(work / "metrics.jsonl", mirror)
        journal.resume(resumed or -1)
        watch = Watch(pipeline, loss, data, params, journal, work, decided_by=lesson.decided_by, teacher=lesson.teacher)
        mirror.metrics(0, {f"outlook/{name}": value for name, value in outlook.say().items()})
        if (work / DONE).is_file():
            print(f"{title}: this very run has ended before; what it gave is taken from {work}", flush=True)
    with outlook.memory_said():
        if team.is_main_process and not resumed:
            watch(0, ema)
        began = time.perf_counter()
        for done, values in train(unet, loss, batches, params, folder=work, ema=ema, title=title):
            if team.is_main_process:
                journal.metrics(done, "train", {**values, SECONDS: time.perf_counter() - began})
                watch(done, ema)
                if done == resumed + FIRST < params.steps:
                    outlook.say_time_left([row[SECONDS] for row in journal.rows("train")[-FIRST:]], done)
            began = time.perf_counter()
    team.wait_for_everyone()
    if not team.is_main_process:
        return {}
    if ema:
        ema.copy_to(unet.parameters())
    report = _report(params, lesson.place, journal, watch)
    _save(unet, lesson.student, out, params, watch)
    journal.tables(curves)
    atomic_write_text(work / DONE, json.dumps(report))
    return report


def _outlook(lesson: TrainingJob, pipeline, team: int) -> TrainingEstimate:
    parts = pipeline.components if pipeline else {}
    others = [part for name, part in parts.items() if name != "unet" and isinstance(part, nn.Module)]
    weights = [weight for part in others for weight in part.parameters()]
    subject = Subject(
        plain(lesson.unet.config),
        plain(lesson.teacher.config) if lesson.teacher is not None else None,
        _example(lesson.data),
        team,
        lesson.unet.device.type == "cuda",
        tuple(pair.student for pair in lesson.pairs),
        sum(weight.numel() * weight.element_size() for weight in weights),
    )
    pairs = len(lesson.data.train) if lesson.data.among is None else len(lesson.data.among)
    return TrainingEstimate(lesson.title, subject, lesson.params, pairs, lesson.unet.device)


def _example(data: Data) -> Example:
    """Shapes of one pair, as the UNet gets it."""
    row = data.train.take([0])
    names = {"latents": "mean", "states": "text", "pooled": "pooled", "sizes": "sizes"}
    return {ours: tuple(row[stored].shape[1:]) for ours, stored in names.items() if stored in row}


def _share(params: Learning, processes: int) -> int:
    """How many examples of a batch each process learns from."""
    if params.batch_size % processes:
        raise UserError(
            f"batch_size: {params.batch_size} examples cannot be shared by {processes} processes (runtime.processes); "
            f"a multiple of {processes} can"
        )
    return params.batch_size // processes


def _save(unet: nn.Module, student: Path, out: Path, params: Learning, watch: Watch) -> None:
    """The pipeline as it is at the end, the plan, and in `best/` the UNet that measured best where that is another."""
    save_pipeline(student, unet, out, params.storage)
    if (plan := student / "unet" / BESIDE).is_file():
        shutil.copy2(plan, out / "unet" / BESIDE)
    best = watch.best_of_all()
    if best and best[0] != params.steps:
        unet.load_state_dict(watch.best_weights())
        save_unet(unet, out / "best", params.storage)


def _report(params: Learning, place: Placement, journal: MetricsLog, watch: Watch) -> dict:
    best, rows = watch.best_of_all(), journal.rows("train")
    seconds = sum(row[SECONDS] for row in rows)  # over all the lives of the run, without watching
    return {
        "steps": params.steps,
        "images_per_second": round(params.steps * params.batch_size * params.accumulation / seconds, 2),
        "seconds": round(seconds, 1),
        "peak_memory_mb": _peak_memory(),
        "runtime": {**place._asdict(), "processes": size(), "threads": torch.get_num_threads()},
        "train": _values(rows),
        "heldout": _values(journal.rows("heldout")),
        "best": {"step": best[0], watch.decided_by: best[1]} if best else {},
    }


def _values(rows: list[dict]) -> dict[str, float]:
    """The last row's measurements."""
    return {name: value for name, value in rows[-1].items() if name not in ("step", "split", SECONDS)} if rows else {}


def _peak_memory() -> float:
    """MB at the highest so far: of the GPU's allocator, or of this process where there is no GPU."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    import resource
    import sys

    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1
    )
