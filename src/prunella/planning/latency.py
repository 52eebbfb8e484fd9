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

from prunella.compute.precision import autocast, rounding
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.latents.shards import Latents
from prunella.models.families import architecture, predict
from prunella.models.pipeline import load_unet
from prunella.params import Precision
from prunella.planning.cost_model import Prices, by_part, own, parts
from prunella.planning.units import End, planned, units
from prunella.profiling.cost import TOKENS, hardware
from prunella.profiling.timing import synchronize
from prunella.pruning.layout import whole_family
from prunella.pruning.mapping import weight_map
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.storage.files import atomic_write_text, json_digest, read_json

ROUNDS, WARM_UP = 15, 2
BATCH = 2  # with and without the prompt: what a step of drawing one picture computes


def settings(config: dict[str, Any], size: tuple[int, int], precision: Precision, device: str) -> dict[str, Any]:
    """What a table belongs to: `config` is the teacher's UNet's, `size` width and height of the latents."""
    what = f"a step of drawing one picture: the UNet on a batch of {BATCH}, median of {ROUNDS} rounds"
    here = {"what": what, "latents": list(size), "precision": precision, "hardware": hardware(device)}
    return {**here, "unet": json_digest(config)}


def kept_or_measured(precision: Precision, asked: bool, teacher: Path, latents: Path, out: Path, device: str) -> str:
    """The table `out` of the `teacher` folder, measured where it is `asked` for and not there; what was done, in words.

    A table of this machine and teacher stays as it is, so that a plan which follows from it stays, too.
    """
    if not asked:
        if not out.is_file():
            atomic_write_text(out, "{}\n")
        return "no student is chosen by milliseconds: nothing is measured"
    config = read_json(teacher / "unet" / "config.json")
    wanted = settings(config, latent_size(open_latents(latents, teacher, device)[1]), precision, device)
    if out.is_file() and read_json(out).get("settings") == wanted:
        return f"{out} stays as it is"
    kind = whole_family(config, "latency")
    ends = [unit for unit in units(kind, config, attention=False) if isinstance(unit, End)]
    size = (wanted["latents"][0], wanted["latents"][1])
    table = measured(load_unet(teacher, device), kind, ends, size, precision)
    atomic_write_text(out, json.dumps({"settings": wanted, "removed": table}, indent=1) + "\n")
    return f"{sum(table['0'].values()):.2f} ms the teacher's UNet, {len(table['0'])} parts of it measured"


def latent_size(pairs: Latents) -> tuple[int, int]:
    """Width and height of the first pair's latents."""
    height, width = pairs.take(np.arange(1))["mean"].shape[-2:]
    return int(width), int(height)


def measured(
    teacher: UNet2DConditionModel, family: str, ends: list[End], size: tuple[int, int], precision: Precision
) -> dict[str, Any]:
    """Milliseconds by part, for each number of removed stages that `ends` have."""
    plans = {end.removed: planned(family, [end]) for end in reversed(ends)} | {0: planned(family, [])}
    students = {removed: prune(teacher, plan, shared=True) for removed, plan in plans.items()}
    taken: dict[int, dict[str, list[float]]] = {removed: {} for removed in plans}
    for turn in range(WARM_UP + ROUNDS):
        for removed, student in students.items():
            for name, ms in _timed(student, plans[removed], size, precision).items():
                if turn >= WARM_UP:
                    taken[removed].setdefault(name, []).append(ms)
    medians = {
        removed: {name: statistics.median(each) for name, each in times.items()} for removed, times in taken.items()
    }
    return {
        str(removed): {part: round(ms, 4) for part, ms in by_part(plans[removed], own(times).items()).items()}
        for removed, times in sorted(medians.items())
    }


def read(path: Path, wanted: dict[str, Any]) -> Prices:
    """The prices in a table. Raises UserError where it is of another machine, or of another size of pictures."""
    table = read_json(path)
    again = "`dvc repro --force --single-item latency` measures it anew"
    if not table.get("removed"):
        raise UserError(f"{path}: no latencies are measured there; {again}")
    for name, value in wanted.items():
        if table["settings"].get(name) != value:
            raise UserError(
                f"{path}: was measured with {name} {table['settings'].get(name)}, here it is {value}; {again}"
            )
    return Prices({int(removed): parts for removed, parts in table["removed"].items()})


@torch.no_grad()
def _timed(unet: UNet2DConditionModel, plan: Plan, size: tuple[int, int], precision: Precision) -> dict[str, float]:
    """Milliseconds of one forward pass by module, those of modules inside included; "" is the whole."""
    weight = next(unet.parameters())
    shapes = architecture(unet.config).example(unet.config, (size[1], size[0]), TOKENS)
    inputs = {
        name: torch.zeros(BATCH, *shape, device=weight.device, dtype=weight.dtype) for name, shape in shapes.items()
    }
    timesteps = torch.full((BATCH,), 500, device=weight.device)
    with _watched(unet, _modules(unet, plan)) as marks, rounding(precision), autocast(weight.device, precision):
        predict(unet, inputs["latents"], timesteps, inputs)
    synchronize()
    return {name: ended(began) for name, (began, ended) in marks.items()}


def _modules(unet: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    """The whole and the parts of a student, by its own names."""
    there = dict(unet.named_modules())
    mid = [name for name in parts(plan) if name.startswith("mid_block.")]
    return {name: there[name] for name in ["", *weight_map(plan), *mid] if name in there}


@contextmanager
def _watched(unet: nn.Module, modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Any, Callable]]]:
    """Inside, the beginning and the end of each module's forward pass are marked, on a GPU in its own queue."""
    gpu = next(unet.parameters()).device.type == "cuda"
    marks: dict[str, Any] = {}

    def mark() -> Any:
        if not gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ended(at: Any) -> Callable[[Any], float]:
        return lambda began: began.elapsed_time(at) if gpu else 1000 * (at - began)

    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: marks.__setitem__(name, mark())))
        hooks.append(
            module.register_forward_hook(lambda *_, name=name: marks.__setitem__(name, (marks[name], ended(mark()))))
        )
    try:
        yield marks
    finally:
        for hook in hooks:
            hook.remove()
