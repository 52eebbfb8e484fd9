"""The parameter file for a checkpoint, pictures and a GPU: the defaults, a published training, and what is one's own.

Nothing of the miniature's training is left in it, since recipes state all that a training of full size needs.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from prunella.cli.wizard.checkpoint import Checkpoint
from prunella.cli.wizard.gpu_fit import GpuFit, fit_to_gpu
from prunella.cli.wizard.images import DatasetInfo
from prunella.params import Params, validate_config
from prunella.params.recipes import DEFAULTS, drop_recipe_keys, list_recipes, load_recipe, merge_recipe
from prunella.pruning.plan import Plan

DEFAULT_RECIPES = {"sd": "sd-tiny", "sdxl": "ssd-1b"}  # recipes for students that nobody has published
HELDOUT_DIVISOR = 10  # one of so many pairs at most is held out
UNQUOTED = re.compile(r"[\w./-]*[A-Za-z][\w./-]*")  # needs no quotation in YAML, unless it reads as another value


class ParamOverride(NamedTuple):
    """A key of the parameter file, the user's value, and why it is that where that is not plain."""

    key_path: tuple[str, ...]
    value: Any
    comment: str = ""


class ParamsFile(NamedTuple):
    """A parameter file's text, and what it was made from."""

    text: str
    params: Params
    recipe: str
    gpu_fit: GpuFit


def select_recipe(plan: Plan) -> str:
    """The recipe of the training that made the plan's student; of one that is not published, its family's usual one."""
    matching_recipes = [
        name for name in list_recipes() if plan.name in yaml.safe_load(load_recipe(name)).get("students", [])
    ]
    return (
        plan.name
        if plan.name in matching_recipes
        else matching_recipes[0]
        if matching_recipes
        else DEFAULT_RECIPES[plan.family]
    )


def build_params_file(
    checkpoint: Checkpoint,
    dataset: DatasetInfo,
    plan: Plan,
    gpu_memory_gb: float,
    caption_keywords: list[str],
    head: str,
) -> ParamsFile:
    """The parameter file that distils the plan's student from the checkpoint on a GPU of `gpu_memory_gb` GB.

    It is tuned on the pairs whose captions hold one of `caption_keywords`; without words it is not tuned. `head` is
    the comment that the file begins with. Raises UserError where the student does not fit the GPU.
    """
    recipe = select_recipe(plan)
    published_text = load_recipe(recipe)
    params = _validate_params(merge_recipe(published_text, DEFAULTS.read_text(encoding="utf-8")))
    gpu_fit = fit_to_gpu(plan, checkpoint, params.distill, gpu_memory_gb)
    overrides = [
        *_model_overrides(checkpoint, dataset, plan),
        *_data_overrides(params, checkpoint, dataset),
        *_training_overrides(gpu_fit, gpu_memory_gb, caption_keywords),
    ]
    remaining_recipe = drop_recipe_keys(published_text, {override.key_path for override in overrides})
    base_text = merge_recipe(remaining_recipe, DEFAULTS.read_text(encoding="utf-8"))
    text = merge_recipe(f"# {' '.join(head.split())}\n{_format_overrides(overrides)}", base_text)
    return ParamsFile(text, _validate_params(text), recipe, gpu_fit)


def _validate_params(text: str) -> Params:
    return validate_config(Params, yaml.safe_load(text), "init")


def _model_overrides(checkpoint: Checkpoint, dataset: DatasetInfo, plan: Plan) -> Iterator[ParamOverride]:
    yield ParamOverride(("students",), [plan.name])
    yield ParamOverride(("teacher", "source"), checkpoint.source)
    yield ParamOverride(("teacher", "id"), checkpoint.name if checkpoint.source == "hub" else None)
    if checkpoint.source != "hub":
        yield ParamOverride(("teacher", "path"), checkpoint.name)
    yield ParamOverride(("filter", "source"), dataset.source)
    yield ParamOverride(("filter", "path"), dataset.path)


def _data_overrides(params: Params, checkpoint: Checkpoint, dataset: DatasetInfo) -> Iterator[ParamOverride]:
    if params.filter.aesthetic.min is not None:
        yield ParamOverride(("filter", "aesthetic", "min"), None, "yours have no such score, or say which")
    if params.encode.resolution != checkpoint.image_size:
        yield ParamOverride(("filter", "min_side"), checkpoint.image_size, "the checkpoint's own size")
        yield ParamOverride(("encode", "resolution"), checkpoint.image_size, "the checkpoint's own size")
        if params.encode.buckets == "ssd-1b":
            yield ParamOverride(("encode", "buckets"), "computed", "ssd-1b's are for 1024")
    if dataset.num_samples is not None:
        yield ParamOverride(("filter", "samples"), dataset.num_samples, "all that are there")
        if params.encode.heldout * HELDOUT_DIVISOR > dataset.num_samples:
            yield ParamOverride(
                ("encode", "heldout"), max(1, dataset.num_samples // HELDOUT_DIVISOR), f"one in {HELDOUT_DIVISOR}"
            )


def _training_overrides(gpu_fit: GpuFit, gpu_memory_gb: float, caption_keywords: list[str]) -> Iterator[ParamOverride]:
    reason = f"to fit {gpu_memory_gb:g} GB"
    for section in ("distill", "finetune"):
        for key, value in gpu_fit.memory_savers.items():
            yield ParamOverride((section, key), value, reason)
    yield ParamOverride(
        ("runtime", "micro_batch"), gpu_fit.micro_batch, f"what fits {gpu_memory_gb:g} GB; auto on another GPU"
    )
    yield ParamOverride(("finetune", "caption_keywords"), caption_keywords)
    if not caption_keywords:
        yield ParamOverride(
            ("finetune", "students"), [], "nobody is tuned; null, and words below, to tune on some of the pairs"
        )


def _format_overrides(overrides: list[ParamOverride]) -> str:
    """YAML in which every section stands once."""
    lines: list[str] = []
    open_sections: set[tuple[str, ...]] = set()
    for override in sorted(overrides, key=lambda override: override.key_path):
        for depth in range(1, len(override.key_path)):
            if (section := override.key_path[:depth]) not in open_sections:
                open_sections.add(section)
                lines.append(f"{'  ' * (depth - 1)}{section[-1]}:")
        line = f"{'  ' * (len(override.key_path) - 1)}{override.key_path[-1]}: {_format_scalar(override.value)}"
        lines.append(f"{line} # {override.comment}" if override.comment else line)
    return "\n".join(lines) + "\n"


def _format_scalar(value: Any) -> str:
    """A value as it is written on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format_scalar, value))}]"
    if isinstance(value, str) and UNQUOTED.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
