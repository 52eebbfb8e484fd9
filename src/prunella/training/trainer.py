"""A training of a student, from its data to the saved pipeline folder: what distillation and fine-tuning share."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from prunella.compute import distributed, fsdp
from prunella.compute.device import Placement, apply_placement
from prunella.compute.heartbeat import watch_peers
from prunella.compute.launch import rank, world_size
from prunella.compute.precision import AUTOCAST_DTYPES
from prunella.compute.resume import (
    DONE_FILE,
    Identity,
    compute_identity,
    list_runs,
    lock_run_dir,
    open_run_dir,
    params_match,
)
from prunella.errors import UserError
from prunella.models.families import strip_private_keys
from prunella.models.pipeline import load_scheduler, save_pipeline, save_unet
from prunella.params import DiffusionTraining
from prunella.pruning.mapping import FeaturePair
from prunella.pruning.plan import PLAN_FILE
from prunella.storage.files import atomic_write_text, link_or_copy
from prunella.training import checkpoint, lora
from prunella.training.callback import NoObserver, Observer
from prunella.training.data import Batch, training_batches, with_others
from prunella.training.loop import averaged, train
from prunella.training.losses import Loss
from prunella.training.memory_estimate import Example, Subject, examples_at_once, memory_of
from prunella.training.metrics_log import MetricsLog
from prunella.training.text_encoders import Speaking
from prunella.training.textual_inversion import Word
from prunella.training.trainable import Learned
from prunella.training.validation import BEST, HELDOUT, Data, Validation

CODE_DEPS = ("compute", "latents", "models", "pruning", "training")  # decide the result
METRICS = "metrics.jsonl"
SECONDS = "seconds"  # of a step, batch and checkpoint included


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What learns, from what, and how."""

    title: str
    unet: UNet2DConditionModel
    loss: Loss
    params: DiffusionTraining
    data: Data
    student: Path  # the pipeline folder that the UNet is from
    placement: Placement
    decided_by: str  # the held-out term that says which weights are best
    checkpoint_every: int  # steps
    teacher: UNet2DConditionModel | None = None
    pairs: tuple[FeaturePair, ...] = ()
    speaking: Speaking | None = None  # the UNet with text encoders that learn too
    adapted: bool = False  # what learns are matrices beside the weights
    word: Word | None = None  # what learns are its embeddings
    groups: list[dict] | None = None  # AdamW's, where not all learn at one rate
    until: int | None = None  # the step that it ends at, where it is not the whole of a training
    borders: tuple[int, ...] = ()  # steps that parts of the training end at

    @property
    def model(self) -> nn.Module:
        """What the loss is given."""
        return self.unet if self.speaking is None else self.speaking

    @property
    def encoders(self) -> dict[str, Any]:
        """Text encoders that learn, by their names in the pipeline."""
        return {} if self.speaking is None else dict(self.speaking.encoders.items())

    def subject(self, processes: int) -> Subject:
        """What takes memory, where `processes` train together."""
        return Subject(
            strip_private_keys(self.unet.config),
            strip_private_keys(self.teacher.config) if self.teacher is not None else None,
            example_of(self.data),
            processes,
            self.unet.device.type == "cuda",
            tuple(pair.student for pair in self.pairs),
            beside=sum(4 * part.num_parameters() for part in self.encoders.values()),
            passes=1 + len(self.data.beside),
            learned=Learned(self.model).count(),
            parts=processes if self.placement.fsdp else 1,
        )

    def examples_at_once(self, processes: int) -> int:
        """Of a process's batch, in one pass."""
        device = self.unet.device
        memory = memory_of(device, processes)
        return examples_at_once(self.placement.micro_batch, self.subject(processes), self.params, memory)


def deciding(params: DiffusionTraining) -> dict:
    """The parameters that decide what is learned: all but how it is stored, who else learns, what from where."""
    return params.model_dump(exclude={"storage", "students", "stage", "latents", "data", "base"})


@contextmanager
def state_folder(stage: str, params: DiffusionTraining, inputs: list[Path], *, continuable: bool) -> Iterator[Path]:
    """The folder that keeps a training's state, to ourselves inside.

    Where none of its steps depends on how many there are (`continuable`), it begins with the state of a shorter one.
    """
    ours = compute_identity(deciding(params), inputs, CODE_DEPS)
    with open_run_dir(stage, ours, is_main_process=rank() == 0) as work:
        if rank() == 0 and continuable:
            adopt_shorter(stage, work, ours)
        yield work


def run_job(job: TrainingJob, *, out: Path, curves: Path, work: Path, observer: Observer | None) -> dict:
    """Train, write the pipeline folder `out` and tables for plots into `curves`; return the report ({} but on rank 0).

    The state is kept in the folder `work` and gone on with; it stays there after the end. Of a part of a training
    (`job.until`) it is all that is left: nothing is written, and {} returned.
    """
    if job.params.gradient_checkpointing:
        job.unet.enable_gradient_checkpointing()
    if job.teacher is not None and job.params.precision in AUTOCAST_DTYPES:
        job.teacher.to(
            AUTOCAST_DTYPES[job.params.precision]
        )  # it only computes, which autocast would do in these bits anyway
    sizes = len({shard.size for shard in job.data.train.shards})
    empty = None
    if job.placement.fsdp:
        check_fsdp(job)
        distributed.get_accelerator(job.unet.device)  # whose processes have parts
        empty = fsdp.to_meta(job.unet)
    with ExitStack() as stack:
        if job.teacher is not None:
            stack.enter_context(
                apply_placement(job.teacher, [pair.teacher for pair in job.pairs], job.placement, num_sizes=sizes)
            )
        stack.enter_context(
            apply_placement(job.unet, [pair.student for pair in job.pairs], job.placement, num_sizes=sizes)
        )
        return _run(job, out, curves, work, observer or NoObserver(), empty)


def check_fsdp(job: TrainingJob) -> None:
    """Raises UserError where what is trained cannot be shared out among the processes."""
    if job.params.optimizer != "adamw":
        raise UserError(f"runtime.fsdp: true needs optimizer: adamw, whose moments are cut, not {job.params.optimizer}")
    if job.speaking:
        raise UserError("runtime.fsdp: true is of UNets; where text encoders learn too, or a word, set it to false")


def _run(
    job: TrainingJob, out: Path, curves: Path, work: Path, observer: Observer, empty: UNet2DConditionModel | None
) -> dict:
    """`empty` is what the UNet is put together in at the end where processes have a part each."""
    unet, model, params, data = job.unet, job.model, job.params, job.data
    team = distributed.get_accelerator(unet.device)
    team.wait_for_everyone()  # the first process may have waited for the folder
    num_train_timesteps = load_scheduler(job.student).config.num_train_timesteps
    share = _share(params, team.num_processes)
    batches = _batches(data, share, params, num_train_timesteps)
    ema = averaged(model, params)
    resumed = checkpoint.newest(work)
    at_once, alone = (job.examples_at_once(processes) for processes in (team.num_processes, 1))
    log = MetricsLog(work / METRICS, observer.metrics)
    validation = Validation(
        model,
        job.loss,
        data,
        params,
        log,
        work,
        num_train_timesteps=num_train_timesteps,
        decided_by=job.decided_by,
        batch_size=alone,  # as one process measures, so that the values are the same
        borders=job.borders,
    )
    if team.is_main_process:
        _prepare(job, work, log, validation, resumed)
    with watch_peers(), observer.around_training(job, work, resumed, team.num_processes) as look:
        if not resumed:
            validation(0, ema)
            look(0, ema)
        began, seconds = time.perf_counter(), 0.0
        steps = train(
            model,
            job.loss,
            batches,
            params,
            folder=work,
            checkpoint_every=job.checkpoint_every,
            ema=ema,
            micro_batch=at_once,
            groups=job.groups,
            until=job.until,
            title=job.title,
        )
        stopped = None
        with closing(steps):
            for done, known in steps:
                seconds += time.perf_counter() - began
                if team.is_main_process:
                    for step, values in known:
                        log.metrics(step, "train", {**values, SECONDS: seconds / len(known)})
                seconds = 0.0 if known else seconds
                validation(done, ema)
                look(done, ema)
                if done < params.steps and _enough(validation, done):
                    stopped = done
                    break
                began = time.perf_counter()
    team.wait_for_everyone()
    if job.until:
        return {}
    if ema and not stopped:
        ema.copy_to(Learned(model).parameters())
    if empty:
        job = replace(job, unet=_put_together(job.unet, empty, keep=team.is_main_process))
    if not team.is_main_process:
        return {}
    if stopped:
        _take_best(job, validation, stopped)
    report = _report(job, log, validation, at_once, stopped)
    _save(job, out, None if stopped else validation)
    log.tables(curves)
    last = checkpoint.newest(work)  # a longer training goes on from the last state alone
    checkpoint.drop(work, lambda step: step < last)
    atomic_write_text(work / DONE_FILE, json.dumps(report))
    return report


def _prepare(job: TrainingJob, work: Path, log: MetricsLog, validation: Validation, resumed: int) -> None:
    """Remove what does not belong to the state that is gone on with. Raises UserError where room is lacking."""
    checkpoint.clear_halves(work)
    check_room(work, Learned(job.model).count(), job.params)
    log.resume(resumed or -1)
    validation.resume(resumed)
    if (work / DONE_FILE).is_file():
        print(f"{job.title}: this very run has ended before; what it gave is taken from {work}", flush=True)


def example_of(data: Data) -> Example:
    """Shapes of one pair, as the UNet gets it; the largest where pictures have several sizes."""
    largest = max(range(len(data.train.shards)), key=lambda number: math.prod(data.train.shards[number].size))
    row = data.train.take([int(data.train.starts[largest])])
    if "text" not in row:  # tokens, which are embedded in the step
        row |= {name: value[None] for name, value in data.train.empty.items()}
    names = {"latents": "mean", "states": "text", "pooled": "pooled", "sizes": "sizes"}
    return {ours: tuple(row[stored].shape[1:]) for ours, stored in names.items() if stored in row}


def _batches(data: Data, size: int, params: DiffusionTraining, last: int) -> Callable[[int], Batch]:
    batches = training_batches(data.train, size, params, last, data.among)
    return with_others(batches, data.beside, size, params, last) if data.beside else batches


def _take_best(job: TrainingJob, validation: Validation, stopped: int) -> None:
    patience = job.params.patience
    print(f"{job.title}: no better for {patience} measurements, so step {stopped} was the last", flush=True)
    Learned(job.model).load_state_dict(validation.best_weights())


def _put_together(unet: UNet2DConditionModel, empty: UNet2DConditionModel, *, keep: bool) -> UNet2DConditionModel:
    """`empty` with the weights of a UNet that processes have parts of, on the CPU; without them unless `keep`."""
    weights = fsdp.full_state_dict(dict(unet.state_dict()), retain=keep)
    if keep:
        empty.load_state_dict(weights, assign=True)
    return empty


def _enough(validation: Validation, done: int) -> bool:
    """Whether all processes are to stop, of which the first alone has the log. They come here together."""
    if validation.params.patience is None or not validation.due(done):
        return False
    return distributed.broadcast_from_main(validation.exhausted)


def check_room(work: Path, parameters: int, params: DiffusionTraining) -> None:
    """Raises UserError where the disk has no room for the states and best weights that are still to be written.

    A state holds weights, AdamW's two moments and, where there is one, the average, 4 bytes each; two are there at
    once, and a third while it is written; best weights likewise twice.
    """
    copies = 3 * (4 if params.ema_decay else 3) + 2
    there = sum(path.stat().st_size for path in work.rglob("step-*.pt"))
    needed, free = 4 * parameters * copies - there, shutil.disk_usage(work).free
    if needed > free:
        raise UserError(
            f"work/: {needed / 1e9:,.2f} GB are needed at {work.resolve()} for the training's states, "
            f"{free / 1e9:,.2f} GB are free; `prunella sweep` removes those of finished trainings"
        )


def adopt_shorter(stage: str, work: Path, ours: Identity) -> None:
    """Let a training go on from the state of one that differs in having fewer steps, where `work` has none of its own.

    Only a training whose steps do not depend on how many there are may call this. Rows and best weights that the
    shorter one measured at its end are left out by `Validation.resume` where they are off the cadence.
    """
    if checkpoint.newest(work):
        return
    for origin, steps, code in sorted(_shorter(stage, work, ours), key=lambda each: -each[1]):
        with lock_run_dir(origin, wait=False) as free:
            if not free:
                continue
            if code != ours.code:
                print(
                    f"{stage}: {origin} holds the first {steps} steps, but by other code; `prunella accept {stage}` "
                    "lets them count where the code gives the same results. Starting anew",
                    flush=True,
                )
                return
            print(f"{stage}: going on from step {steps} of a shorter training, {origin}", flush=True)
            checkpoint.adopt(origin, work, steps)
            if best := checkpoint.newest(origin / BEST):
                checkpoint.adopt(origin / BEST, work / BEST, best)
            for path in [origin / METRICS, *origin.glob("*/*.png")]:
                if path.is_file():
                    (work / path.relative_to(origin)).parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(path, work / path.relative_to(origin))
            return
    print(f"{stage}: no state of a shorter training is there; starting at step 0", flush=True)


def _shorter(stage: str, work: Path, ours: Identity) -> list[tuple[Path, int, str]]:
    """Trainings with fewer steps but otherwise ours: folder, the step of the last state, the digest of the code."""
    found = []
    for folder, noted in list_runs(stage):
        steps = noted.params.get("steps", 0)
        same = noted.inputs == ours.inputs and params_match(
            stage, noted.params | {"steps": ours.params["steps"]}, ours.params
        )
        if folder != work and same and steps < ours.params["steps"] and (step := checkpoint.newest(folder)):
            found.append((folder, step, noted.code))
    return found


def _share(params: DiffusionTraining, processes: int) -> int:
    """How many examples of a batch each process learns from."""
    if params.batch_size % processes:
        raise UserError(
            f"batch_size: {params.batch_size} examples cannot be shared by {processes} processes (runtime.processes); "
            f"a multiple of {processes} can"
        )
    return params.batch_size // processes


def _save(job: TrainingJob, out: Path, validation: Validation | None) -> None:
    """The pipeline as it is now, the plan, and in `best/` the weights that measured best where those are others.

    Without `validation` there are no better ones.
    """
    job.model.to("cpu")  # the training is over; merging takes a second copy
    parts = _whole({"unet": job.unet, **job.encoders}, job)
    save_pipeline(job.student, parts.pop("unet"), out, job.params.storage, **parts)
    _save_beside(job, out)
    if (plan := job.student / "unet" / PLAN_FILE).is_file():
        shutil.copy2(plan, out / "unet" / PLAN_FILE)
    best = validation.best() if validation else None
    if validation and best and best[0] != job.params.steps:
        Learned(job.model).load_state_dict(validation.best_weights())
        parts = _whole({"unet": job.unet, **job.encoders}, job)
        save_unet(parts.pop("unet"), out / "best", job.params.storage)
        for name, encoder in parts.items():
            encoder.save_pretrained(out / "best" / name)
        _save_beside(job, out / "best")


def _whole(parts: dict[str, Any], job: TrainingJob) -> dict[str, Any]:
    """The parts as they are saved: with matrices that were beside their weights, or a word, taken in."""
    if job.word:
        return job.word.whole(parts)
    return {name: lora.merged(part) if job.adapted else part for name, part in parts.items()}


def _save_beside(job: TrainingJob, folder: Path) -> None:
    """What learned, where that is not the weights, as stock diffusers reads it onto the student."""
    if job.adapted:
        lora.save(job.unet, job.encoders, folder)
    if job.word:
        job.word.save(job.encoders, folder)


def _report(job: TrainingJob, log: MetricsLog, validation: Validation, at_once: int, stopped: int | None) -> dict:
    params, best, rows = job.params, validation.best(), log.rows("train")
    steps = stopped or params.steps
    seconds = sum(row[SECONDS] for row in rows)  # over all the lives of the run, without watching
    return {
        "steps": steps,
        "images_per_second": round(steps * params.batch_size * params.gradient_accumulation_steps / seconds, 2),
        "seconds": round(seconds, 1),
        "peak_memory_mb": _peak_memory(),
        "runtime": {
            **job.placement._asdict(),
            "micro_batch": at_once,
            "processes": world_size(),
            "threads": torch.get_num_threads(),
        },
        "train": _values(rows),
        "heldout": _values(log.rows(HELDOUT)),
        "best": {"step": best[0], job.decided_by: best[1]} if best else {},
        **({"stopped": stopped} if stopped else {}),
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
