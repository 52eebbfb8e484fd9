"""How fast a step of each way of fine-tuning is, and what memory it needs: teacher against students, random weights."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from prunella.bench.workload import Workload, make_random_unet, write_random_latents
from prunella.compute.device import apply_placement
from prunella.latents.shards import LatentDataset
from prunella.params import Finetune, validate_config
from prunella.params.validation import fill_section
from prunella.profiling.timing import synchronize_gpu
from prunella.training.data import add_auxiliary_batches, make_training_batches
from prunella.training.loop import train
from prunella.training.lora import add_lora
from prunella.training.losses import DiffusionLoss, LossWithAuxiliary
from prunella.training.memory_estimate import GB, MemorySpec, estimate_memory
from prunella.training.trainable import TrainableState

FINETUNE_METHODS: dict[str, dict] = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "dreambooth, full": {"method": "dreambooth", "dreambooth": {"class_prompts": ["a dog"]}},
    "dreambooth, lora": {"method": "dreambooth", "dreambooth": {"class_prompts": ["a dog"], "weights": "lora"}},
}
WARMUP_STEPS = 2  # steps before those timed


class FinetuneStepResult(NamedTuple):
    model: str
    way: str
    learned: int  # numbers
    seconds: list[float]  # of each step
    reckoned: int  # bytes: weights, gradients, moments and activations of `estimate_memory`
    peak: int | None  # bytes as the GPU's allocator counts them


def time_finetune_step(workload: Workload, model: str, method: str, steps: int) -> FinetuneStepResult:
    """Time `steps` steps of a way on the case's teacher ("teacher") or its student, of random weights.

    Without steps, parameters are counted and memory reckoned alone, on the meta device, whatever the size.
    """
    unet_config, device = (
        workload.teacher_unet_config if model == "teacher" else workload.student_unet_config,
        torch.device(workload.placement.device),
    )
    shared_settings = {
        name: getattr(workload.settings, name) for name in ("batch_size", "precision", "gradient_checkpointing")
    }
    overrides = FINETUNE_METHODS[method] | shared_settings | {"steps": steps + WARMUP_STEPS, "lr_warmup_steps": 0}
    params = validate_config(Finetune, fill_section("finetune", overrides), "bench")
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    unet = make_random_unet(unet_config, device if steps else torch.device("meta")).train()
    if params.uses_lora:
        add_lora(unet, params.lora, params.lora.target_modules, seed=0)
    seconds = _time_finetune_steps(unet, workload, params) if steps else []
    num_passes = 1 + len(params.auxiliary_weights)
    memory_spec = MemorySpec(
        unet_config,
        None,
        workload.example_shapes,
        gpu=is_gpu,
        passes=num_passes,
        num_trainable=TrainableState(unet).count(),
    )
    total_bytes = estimate_memory(memory_spec, params).total
    peak_bytes = torch.cuda.max_memory_allocated() if is_gpu and steps else None
    return FinetuneStepResult(model, method, TrainableState(unet).count(), seconds, total_bytes, peak_bytes)


def _time_finetune_steps(unet: UNet2DConditionModel, workload: Workload, params: Finetune) -> list[float]:
    """For each step after the first ones."""
    if params.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    step_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as latents_dir, apply_placement(unet, [], workload.placement):
        write_random_latents(workload, Path(latents_dir))
        latents, loss = LatentDataset(Path(latents_dir), "train"), DiffusionLoss(DDPMScheduler())
        auxiliary_latents = dict.fromkeys(params.auxiliary_weights, latents)
        batches = make_training_batches(latents, params.batch_size, params, 1000)
        batches = add_auxiliary_batches(batches, auxiliary_latents, params.batch_size, params, 1000)
        start_time = time.perf_counter()
        for step, _ in train(unet, LossWithAuxiliary(loss, params.auxiliary_weights), batches, params, title="bench"):
            synchronize_gpu()
            if step > WARMUP_STEPS:
                step_seconds.append(time.perf_counter() - start_time)
            start_time = time.perf_counter()
    return step_seconds


def build_finetune_table(results: list[FinetuneStepResult]) -> list[list[str]]:
    """A table, the head first."""
    table = [["model", "method", "learned", "s a step", "fastest to slowest", "memory reckoned, GB", "peak, GB"]]
    for result in results:
        step_seconds = result.seconds
        median = f"{statistics.median(step_seconds):.3f}" if step_seconds else "–"
        spread = f"{min(step_seconds):.3f} to {max(step_seconds):.3f}" if step_seconds else "–"
        peak = "–" if result.peak is None else f"{result.peak / GB:.2f}"
        memory = f"{result.reckoned / GB:.2f}"
        table.append([result.model, result.way, f"{result.learned:,}", median, spread, memory, peak])
    return table
