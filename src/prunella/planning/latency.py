"""How many milliseconds each part of a teacher takes on this machine: a table that is measured once.

All parts are timed in the same forward passes, those of teachers without their deepest stages in turn with those of
the whole one, so that every part sees the same machine. A part's time is its median over the rounds.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from prunella.compute.precision import autocast, tf32_context
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.latents.shards import LatentDataset
from prunella.models.families import family_of_unet, predict_with_unet
from prunella.models.pipeline import load_unet
from prunella.params import Precision
from prunella.planning.cost_model import CostTable, exclusive_totals, list_kept_modules, sum_by_module
from prunella.planning.units import DropDeepest, list_units, plan_without
from prunella.profiling.cost import NUM_TOKENS, describe_hardware
from prunella.profiling.timing import synchronize_gpu
from prunella.pruning.layout import require_full_family
from prunella.pruning.mapping import weight_map
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.storage.files import atomic_write_text, json_digest, read_json

TIMING_ROUNDS, WARM_UP_ROUNDS = 15, 2
TIMING_BATCH = 2  # with and without the prompt: what a step of drawing one picture computes


def latency_settings(
    unet_config: dict[str, Any], latent_size: tuple[int, int], precision: Precision, device: str
) -> dict[str, Any]:
    """The identity of a table: `unet_config` is the teacher's UNet's, `latent_size` width and height of the latents."""
    description = (
        f"a step of drawing one picture: the UNet on a batch of {TIMING_BATCH}, median of {TIMING_ROUNDS} rounds"
    )
    machine_settings = {
        "what": description,
        "latents": list(latent_size),
        "precision": precision,
        "hardware": describe_hardware(device),
    }
    return {**machine_settings, "unet": json_digest(unet_config)}


def load_or_measure_latency(
    precision: Precision, is_needed: bool, teacher_dir: Path, latents_dir: Path, table_path: Path, device: str
) -> str:
    """The table `table_path` of the `teacher_dir` folder, measured where it is `is_needed` for and not there; what was
    done, in words.

    A table of this machine and teacher stays as it is, so that a plan which follows from it stays, too.
    """
    if not is_needed:
        if not table_path.is_file():
            atomic_write_text(table_path, "{}\n")
        return "no student is chosen by milliseconds: nothing is measured"
    unet_config = read_json(teacher_dir / "unet" / "config.json")
    expected_settings = latency_settings(
        unet_config, read_latent_size(open_latents(latents_dir, teacher_dir, device)[1]), precision, device
    )
    if table_path.is_file() and read_json(table_path).get("settings") == expected_settings:
        return f"{table_path} stays as it is"
    family = require_full_family(unet_config, "latency")
    drop_units = [
        unit for unit in list_units(family, unet_config, may_drop_attention=False) if isinstance(unit, DropDeepest)
    ]
    latent_size = (expected_settings["latents"][0], expected_settings["latents"][1])
    table = measure_latency_table(load_unet(teacher_dir, device), family, drop_units, latent_size, precision)
    atomic_write_text(table_path, json.dumps({"settings": expected_settings, "removed": table}, indent=1) + "\n")
    return f"{sum(table['0'].values()):.2f} ms the teacher's UNet, {len(table['0'])} parts of it measured"


def read_latent_size(dataset: LatentDataset) -> tuple[int, int]:
    """Width and height of the first pair's latents."""
    height, width = dataset.get_batch(np.arange(1))["mean"].shape[-2:]
    return int(width), int(height)


def measure_latency_table(
    teacher_unet: UNet2DConditionModel,
    family: str,
    drop_units: list[DropDeepest],
    latent_size: tuple[int, int],
    precision: Precision,
) -> dict[str, Any]:
    """Milliseconds by part, for each number of removed stages that `drop_units` have."""
    plans = {drop_unit.num_removed: plan_without(family, [drop_unit]) for drop_unit in reversed(drop_units)} | {
        0: plan_without(family, [])
    }
    students = {num_removed: prune(teacher_unet, plan, shared=True) for num_removed, plan in plans.items()}
    samples_ms: dict[int, dict[str, list[float]]] = {num_removed: {} for num_removed in plans}
    for round_index in range(WARM_UP_ROUNDS + TIMING_ROUNDS):
        for num_removed, student in students.items():
            for name, ms in _time_forward(student, plans[num_removed], latent_size, precision).items():
                if round_index >= WARM_UP_ROUNDS:
                    samples_ms[num_removed].setdefault(name, []).append(ms)
    medians = {
        num_removed: {name: statistics.median(module_ms) for name, module_ms in module_times.items()}
        for num_removed, module_times in samples_ms.items()
    }
    return {
        str(num_removed): {
            module_name: round(ms, 4)
            for module_name, ms in sum_by_module(plans[num_removed], exclusive_totals(module_times).items()).items()
        }
        for num_removed, module_times in sorted(medians.items())
    }


def read_latency_table(path: Path, expected_settings: dict[str, Any]) -> CostTable:
    """The prices in a table. Raises UserError where it is of another machine, or of another size of pictures."""
    table = read_json(path)
    remeasure_hint = "`dvc repro --force --single-item latency` measures it anew"
    if not table.get("removed"):
        raise UserError(f"{path}: no latencies are measured there; {remeasure_hint}")
    for name, value in expected_settings.items():
        if table["settings"].get(name) != value:
            raise UserError(
                f"{path}: was measured with {name} {table['settings'].get(name)}, here it is {value}; {remeasure_hint}"
            )
    return CostTable({int(num_removed): module_costs for num_removed, module_costs in table["removed"].items()})


@torch.no_grad()
def _time_forward(
    unet: UNet2DConditionModel, plan: Plan, latent_size: tuple[int, int], precision: Precision
) -> dict[str, float]:
    """Milliseconds of one forward pass by module, those of modules inside included; "" is the whole."""
    weight = next(unet.parameters())
    shapes = family_of_unet(unet.config).example_shapes(unet.config, (latent_size[1], latent_size[0]), NUM_TOKENS)
    inputs = {
        name: torch.zeros(TIMING_BATCH, *shape, device=weight.device, dtype=weight.dtype)
        for name, shape in shapes.items()
    }
    timesteps = torch.full((TIMING_BATCH,), 500, device=weight.device)
    with (
        _time_modules(unet, _select_modules(unet, plan)) as marks,
        tf32_context(precision),
        autocast(weight.device, precision),
    ):
        predict_with_unet(unet, inputs["latents"], timesteps, inputs)
    synchronize_gpu()
    return {name: elapsed_since(start) for name, (start, elapsed_since) in marks.items()}


def _select_modules(unet: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    """The whole and the parts of a student, by its own names."""
    modules = dict(unet.named_modules())
    mid_modules = [name for name in list_kept_modules(plan) if name.startswith("mid_block.")]
    return {name: modules[name] for name in ["", *weight_map(plan), *mid_modules] if name in modules}


@contextmanager
def _time_modules(unet: nn.Module, modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Any, Callable]]]:
    """Inside, the beginning and the end of each module's forward pass are marked, on a GPU in its own queue."""
    on_gpu = next(unet.parameters()).device.type == "cuda"
    marks: dict[str, Any] = {}

    def mark() -> Any:
        if not on_gpu:
            return time.perf_counter()
        cuda_event = torch.cuda.Event(enable_timing=True)
        cuda_event.record()
        return cuda_event

    def measure_elapsed(end: Any) -> Callable[[Any], float]:
        return lambda start: start.elapsed_time(end) if on_gpu else 1000 * (end - start)

    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: marks.__setitem__(name, mark())))
        hooks.append(
            module.register_forward_hook(
                lambda *_, name=name: marks.__setitem__(name, (marks[name], measure_elapsed(mark())))
            )
        )
    try:
        yield marks
    finally:
        for hook in hooks:
            hook.remove()
