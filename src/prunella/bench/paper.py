"""Cost of distilling from very many pairs, on paper: bytes, operations, hours of GPUs and what they cost.

Bytes and operations are counted from the networks' shapes, steps are those of the recipes. The share of its peak that
a GPU reaches, the size of a picture's file and prices are assumed, and are arguments: nobody has measured them here.
"""

import math
from typing import NamedTuple

from prunella.bench.workload import Workload, count_encoder_flops, make_distill_settings
from prunella.compute.device import Placement
from prunella.models.reference_configs import load_teacher_config
from prunella.params.recipes import parameters
from prunella.pruning.plan import STUDENTS
from prunella.training import memory_estimate

ORIGINAL_TEACHERS = {"sd": "sd15", "sdxl": "sdxl"}


class CostAssumptions(NamedTuple):
    """Parts that are not counted."""

    tflops: float  # of a GPU, dense, in bf16, at its peak
    share: float  # of the peak that is reached
    gpus: int  # in a node
    picture: float  # KB of a file, for each 512 × 512 pixels
    price: float  # of a GPU's hour
    storage: float  # price of a GB for a month


class RecipeWorkload(NamedTuple):
    """A recipe's training: `pairs` to encode, so many `examples` learned from, `batch` in a step."""

    name: str
    workload: Workload
    num_samples: int
    num_examples: int
    batch_size: int


def make_recipe_workload(recipe: str, num_samples: int | None = None, epochs: float | None = None) -> RecipeWorkload:
    """A recipe's, with other `pairs`, and over so many `epochs` of them in place of its steps."""
    params = parameters(recipe)
    plan, training = STUDENTS[params.students[0]], params.distill
    workload = Workload(
        plan,
        load_teacher_config(ORIGINAL_TEACHERS[plan.family]),
        make_distill_settings(),
        Placement(),
        params.encode.resolution,
    )
    batch_size, num_samples = (
        training.batch_size * training.gradient_accumulation_steps,
        num_samples or params.filter.samples,
    )
    num_examples = round(num_samples * epochs) if epochs else training.steps * batch_size
    duration_text = f"{epochs:g} epoch{'s' * (epochs != 1)}" if epochs else f"{training.steps:,} steps"
    return RecipeWorkload(
        f"{recipe}, {num_samples / 1e6:g} M pairs, {duration_text} of {batch_size}",
        workload,
        num_samples,
        num_examples,
        batch_size,
    )


def estimate_training_costs(recipe_workload: RecipeWorkload, assumptions: CostAssumptions) -> dict[str, float]:
    """A run by name: sizes, operations, hours and prices, and the rates at which a node waits for nothing."""
    latent_bytes, embedding_bytes, token_bytes = count_stored_bytes(recipe_workload.workload)
    image_bytes = (
        assumptions.picture
        * 1e3
        * (recipe_workload.workload.latent_size * recipe_workload.workload.vae_scale_factor / 512) ** 2
    )
    step_flops, encode_flops = (
        recipe_workload.workload.count_flops_per_image(),
        count_encoder_flops(recipe_workload.workload),
    )
    flops_per_second = assumptions.tflops * 1e12 * assumptions.share
    total_encode_flops, total_train_flops = (
        recipe_workload.num_samples * encode_flops,
        recipe_workload.num_examples * step_flops,
    )
    hours = (total_encode_flops + total_train_flops) / flops_per_second / 3600
    encodes_per_second, trains_per_second = (
        assumptions.gpus * flops_per_second / flops for flops in (encode_flops, step_flops)
    )  # a second, by a node
    gradient_bytes = 4 * memory_estimate.count_parameters(recipe_workload.workload.student_unet_config)
    return {
        "pictures, TB": recipe_workload.num_samples * image_bytes / 1e12,
        "latents and embeddings, TB": recipe_workload.num_samples * (latent_bytes + embedding_bytes) / 1e12,
        "latents and tokens, TB": recipe_workload.num_samples * (latent_bytes + token_bytes) / 1e12,
        "to encode, EFLOP": total_encode_flops / 1e18,
        "to train, EFLOP": total_train_flops / 1e18,
        "to encode, GPU hours": total_encode_flops / flops_per_second / 3600,
        "to train, GPU hours": total_train_flops / flops_per_second / 3600,
        "days of a node": hours / assumptions.gpus / 24,
        "GPUs, price": hours * assumptions.price,
        "latents and embeddings, price of a month": recipe_workload.num_samples
        * (latent_bytes + embedding_bytes)
        / 1e9
        * assumptions.storage,
        "a node encodes, pictures/s": encodes_per_second,
        "for that it reads, MB/s": encodes_per_second * image_bytes / 1e6,
        "and writes, MB/s": encodes_per_second * (latent_bytes + embedding_bytes) / 1e6,
        "a node trains, examples/s": trains_per_second,
        "for that it reads embeddings, MB/s": trains_per_second * (latent_bytes + embedding_bytes) / 1e6,
        "or tokens, MB/s": trains_per_second * (latent_bytes + token_bytes) / 1e6,
        "gradients of a step, GB": gradient_bytes / 1e9,
        "two nodes exchange, GB/s each way": gradient_bytes
        / (recipe_workload.batch_size / (2 * trains_per_second))
        / 1e9,
    }


def count_stored_bytes(workload: Workload) -> tuple[int, int, int]:
    """Bytes of a pair in fp16: latents (mean and std), embeddings; and tokens (int32) in place of these."""
    elements = {name: math.prod(shape) for name, shape in workload.example_shapes.items()}
    num_text_encoders = 2 if "pooled" in elements else 1
    return (
        2 * 2 * elements["latents"],
        2 * (elements["states"] + elements.get("pooled", 0)),
        4 * workload.num_tokens * num_text_encoders,
    )


def build_cost_estimate_table(recipe_workloads: list[RecipeWorkload], assumptions: CostAssumptions) -> list[list[str]]:
    """A row for each figure, a column for each run."""
    estimates = [estimate_training_costs(recipe_workload, assumptions) for recipe_workload in recipe_workloads]
    rows = [[name, *(_format_quantity(estimate[name]) for estimate in estimates)] for name in estimates[0]]
    return [["", *(recipe_workload.name for recipe_workload in recipe_workloads)], *rows]


def _format_quantity(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
