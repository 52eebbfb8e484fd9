"""The parameter file for a checkpoint, pictures and a GPU: the defaults, a published training, and what is one's own.

Nothing of the miniature's training is left in it, since recipes state all that a training of full size needs.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from prunella.cli.wizard.checkpoint import Checkpoint
from prunella.cli.wizard.gpu_fit import Sizes, sized
from prunella.cli.wizard.images import Pictures
from prunella.params import Params, check
from prunella.params.recipes import DEFAULTS, merge_recipe, recipe_names, recipe_text, recipe_without
from prunella.pruning.plan import Plan

USUAL = {"sd": "sd-tiny", "sdxl": "ssd-1b"}  # recipes for students that nobody has published
HELD_OUT = 10  # one of so many pairs at most is held out
PLAIN = re.compile(r"[\w./-]*[A-Za-z][\w./-]*")  # needs no quotation in YAML, unless it reads as another value


class Own(NamedTuple):
    """A key of the parameter file, the user's value, and why it is that where that is not plain."""

    path: tuple[str, ...]
    value: Any
    why: str = ""


class Beginning(NamedTuple):
    """A parameter file's text, and what it was made from."""

    text: str
    params: Params
    recipe: str
    sizes: Sizes


def recipe_for(plan: Plan) -> str:
    """The recipe of the training that made the plan's student; of one that is not published, its family's usual one."""
    made = [name for name in recipe_names() if plan.name in yaml.safe_load(recipe_text(name)).get("students", [])]
    return plan.name if plan.name in made else made[0] if made else USUAL[plan.family]


def beginning(
    checkpoint: Checkpoint, pictures: Pictures, plan: Plan, memory: float, words: list[str], head: str
) -> Beginning:
    """The parameter file that distils the plan's student from the checkpoint on a GPU of `memory` GB.

    It is tuned on the pairs whose captions hold one of `words`; without words it is not tuned. `head` is the comment
    that the file begins with. Raises UserError where the student does not fit the GPU.
    """
    recipe = recipe_for(plan)
    published = recipe_text(recipe)
    params = _checked(merge_recipe(published, DEFAULTS.read_text(encoding="utf-8")))
    sizes = sized(plan, checkpoint, params.distill, memory)
    own = [*_whose(checkpoint, pictures, plan), *_data(params, checkpoint, pictures), *_training(sizes, memory, words)]
    kept = recipe_without(published, {each.path for each in own})
    whole = merge_recipe(kept, DEFAULTS.read_text(encoding="utf-8"))
    text = merge_recipe(f"# {' '.join(head.split())}\n{_written(own)}", whole)
    return Beginning(text, _checked(text), recipe, sizes)


def _checked(text: str) -> Params:
    return check(Params, yaml.safe_load(text), "init")


def _whose(checkpoint: Checkpoint, pictures: Pictures, plan: Plan) -> Iterator[Own]:
    yield Own(("students",), [plan.name])
    yield Own(("teacher", "source"), checkpoint.source)
    yield Own(("teacher", "id"), checkpoint.name if checkpoint.source == "hub" else None)
    if checkpoint.source != "hub":
        yield Own(("teacher", "path"), checkpoint.name)
    yield Own(("filter", "source"), pictures.source)
    yield Own(("filter", "path"), pictures.path)


def _data(params: Params, checkpoint: Checkpoint, pictures: Pictures) -> Iterator[Own]:
    if params.filter.aesthetic.min is not None:
        yield Own(("filter", "aesthetic", "min"), None, "yours have no such score, or say which")
    if params.encode.resolution != checkpoint.side:
        yield Own(("filter", "min_side"), checkpoint.side, "the checkpoint's own size")
        yield Own(("encode", "resolution"), checkpoint.side, "the checkpoint's own size")
        if params.encode.buckets == "ssd-1b":
            yield Own(("encode", "buckets"), "computed", "ssd-1b's are for 1024")
    if pictures.pairs is not None:
        yield Own(("filter", "samples"), pictures.pairs, "all that are there")
        if params.encode.heldout * HELD_OUT > pictures.pairs:
            yield Own(("encode", "heldout"), max(1, pictures.pairs // HELD_OUT), f"one in {HELD_OUT}")


def _training(sizes: Sizes, memory: float, words: list[str]) -> Iterator[Own]:
    reason = f"to fit {memory:g} GB"
    for section in ("distill", "finetune"):
        for key, value in sizes.given_up.items():
            yield Own((section, key), value, reason)
    yield Own(("runtime", "micro_batch"), sizes.at_once, f"what fits {memory:g} GB; auto on another GPU")
    yield Own(("finetune", "words"), words)
    if not words:
        yield Own(("finetune", "students"), [], "nobody is tuned; null, and words below, to tune on some of the pairs")


def _written(own: list[Own]) -> str:
    """YAML in which every section stands once."""
    lines: list[str] = []
    opened: set[tuple[str, ...]] = set()
    for each in sorted(own, key=lambda each: each.path):
        for depth in range(1, len(each.path)):
            if (section := each.path[:depth]) not in opened:
                opened.add(section)
                lines.append(f"{'  ' * (depth - 1)}{section[-1]}:")
        line = f"{'  ' * (len(each.path) - 1)}{each.path[-1]}: {_scalar(each.value)}"
        lines.append(f"{line} # {each.why}" if each.why else line)
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A value as it is written on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, str) and PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
