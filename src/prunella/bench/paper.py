"""What distilling from very many pairs takes, on paper: bytes, operations, hours of GPUs and what they cost.

Bytes and operations are counted from the networks' shapes, steps are those of the recipes. What a GPU reaches of its
peak, the size of a picture's file and prices are assumed, and are arguments: nobody has measured them here.
"""

import math
from typing import NamedTuple

from prunella.bench.workload import Workload, encoder_flops, settings
from prunella.compute.device import Placement
from prunella.models.reference_configs import load_teacher_config
from prunella.params.recipes import parameters
from prunella.pruning.plan import STUDENTS
from prunella.training import memory_estimate

ORIGINAL = {"sd": "sd15", "sdxl": "sdxl"}


class Assumed(NamedTuple):
    """What is not counted."""

    tflops: float  # of a GPU, dense, in bf16, at its peak
    share: float  # of the peak that is reached
    gpus: int  # in a node
    picture: float  # KB of a file, for each 512 × 512 pixels
    price: float  # of a GPU's hour
    storage: float  # price of a GB for a month


class Run(NamedTuple):
    """A recipe's training: `pairs` to encode, so many `examples` learned from, `batch` in a step."""

    name: str
    case: Workload
    pairs: int
    examples: int
    batch: int


def run(recipe: str, pairs: int | None = None, epochs: float | None = None) -> Run:
    """A recipe's, with other `pairs`, and over so many `epochs` of them in place of its steps."""
    params = parameters(recipe)
    plan, learning = STUDENTS[params.students[0]], params.distill
    case = Workload(plan, load_teacher_config(ORIGINAL[plan.family]), settings(), Placement(), params.encode.resolution)
    batch, pairs = learning.batch_size * learning.gradient_accumulation_steps, pairs or params.filter.samples
    examples = round(pairs * epochs) if epochs else learning.steps * batch
    said = f"{epochs:g} epoch{'s' * (epochs != 1)}" if epochs else f"{learning.steps:,} steps"
    return Run(f"{recipe}, {pairs / 1e6:g} M pairs, {said} of {batch}", case, pairs, examples, batch)


def figures(it: Run, assumed: Assumed) -> dict[str, float]:
    """Of a run by name: sizes, operations, hours and prices, and the rates at which a node waits for nothing."""
    latents, text, tokens = stored(it.case)
    file = assumed.picture * 1e3 * (it.case.side * it.case.factor / 512) ** 2
    step, encoders = it.case.flops(), encoder_flops(it.case)
    rate = assumed.tflops * 1e12 * assumed.share
    encode, train = it.pairs * encoders, it.examples * step
    hours = (encode + train) / rate / 3600
    encoded, learned = (assumed.gpus * rate / each for each in (encoders, step))  # a second, by a node
    gradients = 4 * memory_estimate.parameters(it.case.student)
    return {
        "pictures, TB": it.pairs * file / 1e12,
        "latents and embeddings, TB": it.pairs * (latents + text) / 1e12,
        "latents and tokens, TB": it.pairs * (latents + tokens) / 1e12,
        "to encode, EFLOP": encode / 1e18,
        "to train, EFLOP": train / 1e18,
        "to encode, GPU hours": encode / rate / 3600,
        "to train, GPU hours": train / rate / 3600,
        "days of a node": hours / assumed.gpus / 24,
        "GPUs, price": hours * assumed.price,
        "latents and embeddings, price of a month": it.pairs * (latents + text) / 1e9 * assumed.storage,
        "a node encodes, pictures/s": encoded,
        "for that it reads, MB/s": encoded * file / 1e6,
        "and writes, MB/s": encoded * (latents + text) / 1e6,
        "a node trains, examples/s": learned,
        "for that it reads embeddings, MB/s": learned * (latents + text) / 1e6,
        "or tokens, MB/s": learned * (latents + tokens) / 1e6,
        "gradients of a step, GB": gradients / 1e9,
        "two nodes exchange, GB/s each way": gradients / (it.batch / (2 * learned)) / 1e9,
    }


def stored(case: Workload) -> tuple[int, int, int]:
    """Bytes of a pair in fp16: latents (mean and std), embeddings; and tokens (int32) in place of these."""
    elements = {name: math.prod(shape) for name, shape in case.example.items()}
    encoders = 2 if "pooled" in elements else 1
    return 2 * 2 * elements["latents"], 2 * (elements["states"] + elements.get("pooled", 0)), 4 * case.tokens * encoders


def table(runs: list[Run], assumed: Assumed) -> list[list[str]]:
    """A row for each figure, a column for each run."""
    found = [figures(it, assumed) for it in runs]
    rows = [[name, *(_said(each[name]) for each in found)] for name in found[0]]
    return [["", *(it.name for it in runs)], *rows]


def _said(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
