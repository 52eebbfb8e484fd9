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
from prunella.training.callback import NoCallback, TrainingCallback
from prunella.training.data import Batch, add_auxiliary_batches, make_training_batches
from prunella.training.loop import make_ema, train
from prunella.training.losses import Loss
from prunella.training.memory_estimate import Example, MemorySpec, choose_micro_batch, memory_per_process
from prunella.training.metrics_log import MetricsLog
from prunella.training.text_encoders import UNetWithTextEncoders
from prunella.training.textual_inversion import PlaceholderToken
from prunella.training.trainable import TrainableState
from prunella.training.validation import BEST, HELDOUT, TrainingData, Validation

CODE_DEPS = ("compute", "latents", "models", "pruning", "training")  # decide the result
METRICS = "metrics.jsonl"
STEP_SECONDS = "seconds"  # of a step, batch and checkpoint included


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """The model, data and settings of a training."""

    title: str
    unet: UNet2DConditionModel
    loss: Loss
    params: DiffusionTraining
    data: TrainingData
    student: Path  # the pipeline folder that the UNet is from
    placement: Placement
    monitor: str  # the held-out term that says which weights are best
    checkpoint_every: int  # steps
    teacher: UNet2DConditionModel | None = None
    pairs: tuple[FeaturePair, ...] = ()
    text_encoder_model: UNetWithTextEncoders | None = None  # the UNet with text encoders that learn too
    uses_lora: bool = False  # what learns are matrices beside the weights
    placeholder: PlaceholderToken | None = None  # what learns are its embeddings
    groups: list[dict] | None = None  # AdamW's, where not all learn at one rate
    stop_at_step: int | None = None  # the step that it ends at, where it is not the whole of a training
    phase_ends: tuple[int, ...] = ()  # steps that parts of the training end at

    @property
    def model(self) -> nn.Module:
        """The input of the loss."""
        return self.unet if self.text_encoder_model is None else self.text_encoder_model

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Text encoders that learn, by their names in the pipeline."""
        return {} if self.text_encoder_model is None else dict(self.text_encoder_model.encoders.items())

    def memory_spec(self, processes: int) -> MemorySpec:
        """Memory use, where `processes` train together."""
        return MemorySpec(
            strip_private_keys(self.unet.config),
            strip_private_keys(self.teacher.config) if self.teacher is not None else None,
            example_shapes(self.data),
            processes,
            self.unet.device.type == "cuda",
            tuple(pair.student for pair in self.pairs),
            other_bytes=sum(4 * part.num_parameters() for part in self.text_encoders.values()),
            passes=1 + len(self.data.auxiliary),
            num_trainable=TrainableState(self.model).count(),
            num_shards=processes if self.placement.fsdp else 1,
        )

    def choose_micro_batch(self, processes: int) -> int:
        """For a process's batch, in one pass."""
        device = self.unet.device
        memory = memory_per_process(device, processes)
        return choose_micro_batch(self.placement.micro_batch, self.memory_spec(processes), self.params, memory)


def result_params(params: DiffusionTraining) -> dict:
    """The parameters that decide what is learned: all but how it is stored, who else learns, what from where."""
    return params.model_dump(exclude={"storage", "students", "stage", "latents", "data", "base"})


@contextmanager
def open_training_dir(
    stage: str, params: DiffusionTraining, inputs: list[Path], *, continuable: bool
) -> Iterator[Path]:
    """The folder that keeps a training's state, to ourselves inside.

    Where none of its steps depends on how many there are (`continuable`), it begins with the state of a shorter one.
    """
    identity = compute_identity(result_params(params), inputs, CODE_DEPS)
    with open_run_dir(stage, identity, is_main_process=rank() == 0) as work:
        if rank() == 0 and continuable:
            resume_from_shorter(stage, work, identity)
        yield work


def run_job(job: TrainingJob, *, out: Path, curves: Path, work: Path, observer: TrainingCallback | None) -> dict:
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
        return _run_training(job, out, curves, work, observer or NoCallback(), empty)


def check_fsdp(job: TrainingJob) -> None:
    """Raises UserError where what is trained cannot be shared out among the processes."""
    if job.params.optimizer != "adamw":
        raise UserError(f"runtime.fsdp: true needs optimizer: adamw, whose moments are cut, not {job.params.optimizer}")
    if job.text_encoder_model:
        raise UserError("runtime.fsdp: true is of UNets; where text encoders learn too, or a word, set it to false")


def _run_training(
    job: TrainingJob,
    out: Path,
    curves: Path,
    work: Path,
    observer: TrainingCallback,
    meta_unet: UNet2DConditionModel | None,
) -> dict:
    """`meta_unet` is what the UNet is put together in at the end where processes have a part each."""
    unet, model, params, data = job.unet, job.model, job.params, job.data
    accelerator = distributed.get_accelerator(unet.device)
    accelerator.wait_for_everyone()  # the first process may have waited for the folder
    num_train_timesteps = load_scheduler(job.student).config.num_train_timesteps
    batch_share = _per_process_batch(params, accelerator.num_processes)
    batches = _make_batches(data, batch_share, params, num_train_timesteps)
    ema = make_ema(model, params)
    resumed_step = checkpoint.newest_step(work)
    micro_batch, single_process_batch = (
        job.choose_micro_batch(processes) for processes in (accelerator.num_processes, 1)
    )
    log = MetricsLog(work / METRICS, observer.metrics)
    validation = Validation(
        model,
        job.loss,
        data,
        params,
        log,
        work,
        num_train_timesteps=num_train_timesteps,
        monitor=job.monitor,
        batch_size=single_process_batch,  # as one process measures, so that the values are the same
        phase_ends=job.phase_ends,
    )
    if accelerator.is_main_process:
        _prepare(job, work, log, validation, resumed_step)
    with watch_peers(), observer.around_training(job, work, resumed_step, accelerator.num_processes) as step_hook:
        if not resumed_step:
            validation(0, ema)
            step_hook(0, ema)
        start_time, seconds = time.perf_counter(), 0.0
        steps = train(
            model,
            job.loss,
            batches,
            params,
            folder=work,
            checkpoint_every=job.checkpoint_every,
            ema=ema,
            micro_batch=micro_batch,
            groups=job.groups,
            stop_at_step=job.stop_at_step,
            title=job.title,
        )
        stopped_step = None
        with closing(steps):
            for done, new_rows in steps:
                seconds += time.perf_counter() - start_time
                if accelerator.is_main_process:
                    for step, values in new_rows:
                        log.log_metrics(step, "train", {**values, STEP_SECONDS: seconds / len(new_rows)})
                seconds = 0.0 if new_rows else seconds
                validation(done, ema)
                step_hook(done, ema)
                if done < params.steps and _should_stop_early(validation, done):
                    stopped_step = done
                    break
                start_time = time.perf_counter()
    accelerator.wait_for_everyone()
    if job.stop_at_step:
        return {}
    if ema and not stopped_step:
        ema.copy_to(TrainableState(model).parameters())
    if meta_unet:
        job = replace(job, unet=_unshard(job.unet, meta_unet, is_main_process=accelerator.is_main_process))
    if not accelerator.is_main_process:
        return {}
    if stopped_step:
        _load_best(job, validation, stopped_step)
    report = _make_report(job, log, validation, micro_batch, stopped_step)
    _save_result(job, out, None if stopped_step else validation)
    log.export_csv(curves)
    last = checkpoint.newest_step(work)  # a longer training goes on from the last state alone
    checkpoint.remove_checkpoints(work, lambda step: step < last)
    atomic_write_text(work / DONE_FILE, json.dumps(report))
    return report


def _prepare(job: TrainingJob, work: Path, log: MetricsLog, validation: Validation, resumed_step: int) -> None:
    """Remove what does not belong to the state that is gone on with. Raises UserError where room is lacking."""
    checkpoint.remove_partial(work)
    check_disk_space(work, TrainableState(job.model).count(), job.params)
    log.resume(resumed_step or -1)
    validation.forget_after(resumed_step)
    if (work / DONE_FILE).is_file():
        print(f"{job.title}: this very run has ended before; what it gave is taken from {work}", flush=True)


def example_shapes(data: TrainingData) -> Example:
    """Shapes of one pair, as the UNet gets it; the largest where pictures have several sizes."""
    largest = max(range(len(data.train.shards)), key=lambda number: math.prod(data.train.shards[number].size))
    row = data.train.get_batch([int(data.train.starts[largest])])
    if "text" not in row:  # tokens, which are embedded in the step
        row |= {name: value[None] for name, value in data.train.empty.items()}
    names = {"latents": "mean", "states": "text", "pooled": "pooled", "sizes": "sizes"}
    return {name: tuple(row[stored].shape[1:]) for name, stored in names.items() if stored in row}


def _make_batches(data: TrainingData, size: int, params: DiffusionTraining, last: int) -> Callable[[int], Batch]:
    batches = make_training_batches(data.train, size, params, last, data.indices)
    return add_auxiliary_batches(batches, data.auxiliary, size, params, last) if data.auxiliary else batches


def _load_best(job: TrainingJob, validation: Validation, stopped_step: int) -> None:
    patience = job.params.patience
    print(f"{job.title}: no better for {patience} measurements, so step {stopped_step} was the last", flush=True)
    TrainableState(job.model).load_state_dict(validation.load_best_weights())


def _unshard(
    unet: UNet2DConditionModel, meta_unet: UNet2DConditionModel, *, is_main_process: bool
) -> UNet2DConditionModel:
    """`meta_unet` with the weights of a UNet that processes have parts of, on the CPU; without them unless
    `is_main_process`."""
    weights = fsdp.full_state_dict(dict(unet.state_dict()), retain=is_main_process)
    if is_main_process:
        meta_unet.load_state_dict(weights, assign=True)
    return meta_unet


def _should_stop_early(validation: Validation, done: int) -> bool:
    """Whether all processes are to stop, of which the first alone has the log. They come here together."""
    if validation.params.patience is None or not validation.is_due(done):
        return False
    return distributed.broadcast_from_main(validation.patience_exceeded)


def check_disk_space(work: Path, parameters: int, params: DiffusionTraining) -> None:
    """Raises UserError where the disk has no room for the states and best weights that are still to be written.

    A state holds weights, AdamW's two moments and, where there is one, the average, 4 bytes each; two are there at
    once, and a third while it is written; best weights likewise twice.
    """
    copies = 3 * (4 if params.ema_decay else 3) + 2
    existing_bytes = sum(path.stat().st_size for path in work.rglob("step-*.pt"))
    needed_bytes, free_bytes = 4 * parameters * copies - existing_bytes, shutil.disk_usage(work).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"work/: {needed_bytes / 1e9:,.2f} GB are needed at {work.resolve()} for the training's states, "
            f"{free_bytes / 1e9:,.2f} GB are free; `prunella gc` removes those of finished trainings"
        )


def resume_from_shorter(stage: str, work: Path, identity: Identity) -> None:
    """Let a training go on from the state of one that differs in having fewer steps, where `work` has none of its own.

    Only a training whose steps do not depend on how many there are may call this. Rows and best weights that the
    shorter one measured at its end are left out by `Validation.resume` where they are off the cadence.
    """
    if checkpoint.newest_step(work):
        return
    for origin, steps, code in sorted(_list_shorter(stage, work, identity), key=lambda each: -each[1]):
        with lock_run_dir(origin, wait=False) as is_free:
            if not is_free:
                continue
            if code != identity.code:
                print(
                    f"{stage}: {origin} holds the first {steps} steps, but by other code; `prunella accept {stage}` "
                    "lets them count where the code gives the same results. Starting anew",
                    flush=True,
                )
                return
            print(f"{stage}: going on from step {steps} of a shorter training, {origin}", flush=True)
            checkpoint.link_checkpoint(origin, work, steps)
            if best := checkpoint.newest_step(origin / BEST):
                checkpoint.link_checkpoint(origin / BEST, work / BEST, best)
            for path in [origin / METRICS, *origin.glob("*/*.png")]:
                if path.is_file():
                    (work / path.relative_to(origin)).parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(path, work / path.relative_to(origin))
            return
    print(f"{stage}: no state of a shorter training is there; starting at step 0", flush=True)


def _list_shorter(stage: str, work: Path, identity: Identity) -> list[tuple[Path, int, str]]:
    """Trainings with fewer steps but otherwise ours: folder, the step of the last state, the digest of the code."""
    candidates = []
    for folder, recorded in list_runs(stage):
        steps = recorded.params.get("steps", 0)
        is_same = recorded.inputs == identity.inputs and params_match(
            stage, recorded.params | {"steps": identity.params["steps"]}, identity.params
        )
        if folder != work and is_same and steps < identity.params["steps"] and (step := checkpoint.newest_step(folder)):
            candidates.append((folder, step, recorded.code))
    return candidates


def _per_process_batch(params: DiffusionTraining, processes: int) -> int:
    """How many examples of a batch each process learns from."""
    if params.batch_size % processes:
        raise UserError(
            f"batch_size: {params.batch_size} examples cannot be shared by {processes} processes (runtime.processes); "
            f"a multiple of {processes} can"
        )
    return params.batch_size // processes


def _save_result(job: TrainingJob, out: Path, validation: Validation | None) -> None:
    """The pipeline as it is now, the plan, and in `best/` the weights that measured best where those are others.

    Without `validation` there are no better ones.
    """
    job.model.to("cpu")  # the training is over; merging takes a second copy
    parts = _merge_for_saving({"unet": job.unet, **job.text_encoders}, job)
    save_pipeline(job.student, parts.pop("unet"), out, job.params.storage, **parts)
    _save_adapters(job, out)
    if (plan := job.student / "unet" / PLAN_FILE).is_file():
        shutil.copy2(plan, out / "unet" / PLAN_FILE)
    best = validation.find_best() if validation else None
    if validation and best and best[0] != job.params.steps:
        TrainableState(job.model).load_state_dict(validation.load_best_weights())
        parts = _merge_for_saving({"unet": job.unet, **job.text_encoders}, job)
        save_unet(parts.pop("unet"), out / "best", job.params.storage)
        for name, encoder in parts.items():
            encoder.save_pretrained(out / "best" / name)
        _save_adapters(job, out / "best")


def _merge_for_saving(parts: dict[str, Any], job: TrainingJob) -> dict[str, Any]:
    """The parts as they are saved: with matrices that were beside their weights, or a word, taken in."""
    if job.placeholder:
        return job.placeholder.merge_components(parts)
    return {name: lora.merge_lora(part) if job.uses_lora else part for name, part in parts.items()}


def _save_adapters(job: TrainingJob, folder: Path) -> None:
    """Learned parts other than weights, as stock diffusers reads it onto the student."""
    if job.uses_lora:
        lora.save_lora(job.unet, job.text_encoders, folder)
    if job.placeholder:
        job.placeholder.save(job.text_encoders, folder)


def _make_report(
    job: TrainingJob, log: MetricsLog, validation: Validation, micro_batch: int, stopped_step: int | None
) -> dict:
    params, best, rows = job.params, validation.find_best(), log.rows("train")
    steps = stopped_step or params.steps
    seconds = sum(row[STEP_SECONDS] for row in rows)  # over all the lives of the run, without watching
    return {
        "steps": steps,
        "images_per_second": round(steps * params.batch_size * params.gradient_accumulation_steps / seconds, 2),
        "seconds": round(seconds, 1),
        "peak_memory_mb": _peak_memory_mb(),
        "runtime": {
            **job.placement._asdict(),
            "micro_batch": micro_batch,
            "processes": world_size(),
            "threads": torch.get_num_threads(),
        },
        "train": _last_values(rows),
        "heldout": _last_values(log.rows(HELDOUT)),
        "best": {"step": best[0], job.monitor: best[1]} if best else {},
        **({"stopped": stopped_step} if stopped_step else {}),
    }


def _last_values(rows: list[dict]) -> dict[str, float]:
    """The last row's measurements."""
    return (
        {name: value for name, value in rows[-1].items() if name not in ("step", "split", STEP_SECONDS)} if rows else {}
    )


def _peak_memory_mb() -> float:
    """MB at the highest so far: of the GPU's allocator, or of this process where there is no GPU."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    import resource
    import sys

    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1
    )
