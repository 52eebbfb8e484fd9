"""How fast a step of each way of fine-tuning is, and what memory it needs: teacher against students, random weights."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from prunella.bench.workload import Workload, random_pairs, random_unet
from prunella.compute.device import apply_placement
from prunella.latents.shards import Latents
from prunella.params import Finetune, validate_config
from prunella.params.validation import fill_section
from prunella.profiling.timing import synchronize_gpu
from prunella.training.data import training_batches, with_others
from prunella.training.loop import train
from prunella.training.lora import put_on
from prunella.training.losses import Preserving, Task
from prunella.training.memory_estimate import GB, Subject, needed
from prunella.training.trainable import Learned

WAYS: dict[str, dict] = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "dreambooth, full": {"method": "dreambooth", "dreambooth": {"class_prompts": ["a dog"]}},
    "dreambooth, lora": {"method": "dreambooth", "dreambooth": {"class_prompts": ["a dog"], "weights": "lora"}},
}
WARMUP = 2  # steps before those timed


class Figures(NamedTuple):
    model: str
    way: str
    learned: int  # numbers
    seconds: list[float]  # of each step
    reckoned: int  # bytes: weights, gradients, moments and activations of `needed`
    peak: int | None  # bytes as the GPU's allocator counts them


def timed(case: Workload, model: str, way: str, steps: int) -> Figures:
    """Time `steps` steps of a way on the case's teacher ("teacher") or its student, of random weights.

    Of no steps what is learned is counted and memory reckoned alone, on the meta device, whatever the size.
    """
    config, device = case.teacher if model == "teacher" else case.student, torch.device(case.place.device)
    same = {name: getattr(case.settings, name) for name in ("batch_size", "precision", "gradient_checkpointing")}
    asked = WAYS[way] | same | {"steps": steps + WARMUP, "lr_warmup_steps": 0}
    params = validate_config(Finetune, fill_section("finetune", asked), "bench")
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    unet = random_unet(config, device if steps else torch.device("meta")).train()
    if params.uses_lora:
        put_on(unet, params.lora, params.lora.target_modules, seed=0)
    seconds = _seconds(unet, case, params) if steps else []
    passes = 1 + len(params.auxiliary_weights)
    subject = Subject(config, None, case.example, gpu=gpu, passes=passes, learned=Learned(unet).count())
    total = needed(subject, params).total
    peak = torch.cuda.max_memory_allocated() if gpu and steps else None
    return Figures(model, way, Learned(unet).count(), seconds, total, peak)


def _seconds(unet: UNet2DConditionModel, case: Workload, params: Finetune) -> list[float]:
    """Of each step after the first ones."""
    if params.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder, apply_placement(unet, [], case.place):
        random_pairs(case, Path(folder))
        pairs, loss = Latents(Path(folder), "train"), Task(DDPMScheduler())
        others = dict.fromkeys(params.auxiliary_weights, pairs)
        batches = training_batches(pairs, params.batch_size, params, 1000)
        batches = with_others(batches, others, params.batch_size, params, 1000)
        began = time.perf_counter()
        for done, _ in train(unet, Preserving(loss, params.auxiliary_weights), batches, params, title="bench"):
            synchronize_gpu()
            if done > WARMUP:
                found.append(time.perf_counter() - began)
            began = time.perf_counter()
    return found


def rows(found: list[Figures]) -> list[list[str]]:
    """A table, the head first."""
    table = [["model", "method", "learned", "s a step", "fastest to slowest", "memory reckoned, GB", "peak, GB"]]
    for each in found:
        took = each.seconds
        median = f"{statistics.median(took):.3f}" if took else "–"
        spread = f"{min(took):.3f} to {max(took):.3f}" if took else "–"
        peak = "–" if each.peak is None else f"{each.peak / GB:.2f}"
        memory = f"{each.reckoned / GB:.2f}"
        table.append([each.model, each.way, f"{each.learned:,}", median, spread, memory, peak])
    return table
