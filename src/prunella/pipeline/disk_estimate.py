"""What a whole run takes on the disk, reckoned before it begins; each stage asks again for what it writes itself."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from prunella.compute.resume import work_root
from prunella.encoding.encode import vae_factor
from prunella.errors import UserError
from prunella.models.configs import models, stem
from prunella.models.families import FAMILIES
from prunella.models.teacher import describe_folder
from prunella.models.weights import check_part, header
from prunella.params import Learning, Params, named
from prunella.pruning.layout import is_student
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS
from prunella.training.memory_estimate import GB, parameters, tokens

HERE = ("work", "data", "models")  # folders of what a run writes
BITS = {"fp32": 4, "fp16": 2}  # bytes of a stored number
PIXEL = 2  # bytes of a drawn pixel in a PNG, about


def check_disk(params: Params, folder: Path, pairs: int) -> None:
    """Print what the run with the teacher's pipeline `folder` will take, on `pairs` pairs.

    Raises UserError where what lies in work/ alone is more than there is room for. Models and pictures go to DVC's
    cache, which may be elsewhere, so of those a word is said.
    """
    parts = room_for(params, folder, pairs)
    if elsewhere := sorted(params.finetune.base.keys() - _bases(params)):
        print(f"disk: without finetune.base.{', '.join(elsewhere)}, which is in no folder here", flush=True)
    whole, work = sum(parts.values()), parts["latents"] + parts["states"]
    root = work_root().parent
    free, there = shutil.disk_usage(root).free, _bytes(root / name for name in HERE)
    said = ", ".join(f"{name} {size / GB:.2f}" for name, size in parts.items())
    print(
        f"disk: about {whole / GB:.2f} GB ({said}); {free / GB:.2f} GB are free and {there / GB:.2f} GB are this "
        f"folder's already{'' if whole <= free + there else ': that will hardly do'}",
        flush=True,
    )
    if work > free + there:
        raise UserError(
            f"disk: {work / GB:,.2f} GB are needed at {root.resolve()} for latents and the trainings' states, "
            f"{free / GB:,.2f} GB are free and {there / GB:,.2f} GB this folder's already; fewer students, "
            "filter.samples or encode.storage fp16 take less"
        )


def room_for(params: Params, folder: Path, pairs: int) -> dict[str, int]:
    """Bytes by what they are for."""
    teacher = describe_folder(folder, is_student)
    students = [parameters(student_config(STUDENTS[name], teacher["unet"])) for name in named(params)]
    students += [parameters(teacher["unet"])] * (len(params.students) - len(students))  # not chosen yet: at most
    trainings = (params.distill, params.finetune)
    bases = _bases(params).values()
    trained = [(size, training) for size in students for training in trainings]
    trained += [(size, params.finetune) for size, _ in bases]
    kept = sum(_state(*each) for each in trained)
    while_one_runs = max(_while_training(*each) for each in trained)
    side = params.encode.resolution
    drawn = min(params.benchmark.prompts, params.encode.heldout) * side**2 * PIXEL
    others = 4 * _other_parameters(folder, teacher["family"])
    unets = [BITS[params.prune.storage], *(2 * BITS[training.storage] for training in trainings)]  # twice: best weights
    return {
        "latents": 0 if params.encode.store else pairs * _pair(params, folder, teacher),
        "states": kept + while_one_runs,
        "models": sum(size * bits + others for size in students for bits in unets)
        + sum(size * unets[-1] + 4 * rest for size, rest in bases),
        "pictures": drawn * (1 + 3 * len(students) + 2 * len(bases)),
    }


def _bases(params: Params) -> dict[str, tuple[int, int]]:
    """Numbers in the UNet of each of `finetune.base` that is a folder here, and in its other parts.

    Raises UserError where one is no Stable Diffusion.
    """
    found = {}
    for name, base in params.finetune.base.items():
        if base.model.source in ("bundled", "folder"):
            folder = Path(base.model.path)
            try:
                told = describe_folder(folder, lambda _: True)
            except UserError as error:  # which names the section `teacher`
                raise UserError(str(error).replace("teacher.", f"finetune.base.{name}.model.")) from None
            found[name] = parameters(told["unet"]), _other_parameters(folder, told["family"])
    return found


def _state(size: int, training: Learning) -> int:
    """What a training of so many parameters leaves: its last state, and its best weights."""
    return 4 * size * ((4 if training.ema_decay else 3) + 1)


def _while_training(size: int, training: Learning) -> int:
    """What it needs beside that while it runs: two more states, and the best weights once more."""
    return 4 * size * (2 * (4 if training.ema_decay else 3) + 1)


def _pair(params: Params, folder: Path, teacher: dict) -> int:
    """Bytes of an encoded pair with one caption."""
    side = params.encode.resolution // vae_factor(folder)
    shapes = FAMILIES[teacher["family"]].example(teacher["unet"], (side, side), tokens(folder))
    number = BITS[params.encode.storage]
    text = sum(math.prod(shapes[name]) for name in ("states", "pooled") if name in shapes) * number
    if params.encode.text == "tokens":
        text = 4 * tokens(folder) * len(FAMILIES[teacher["family"]].encoders)
    sides = 2 if params.encode.flip else 1
    return 2 * sides * math.prod(shapes["latents"]) * number + text  # mean and std


def _other_parameters(folder: Path, family: str) -> int:
    """Numbers in the parts of a pipeline beside the UNet."""
    files = [
        path
        for part, (library, _) in models(folder, family).items()
        if part != "unet"
        for path in check_part(folder / part, True, stem(library))
        if path.suffix == ".safetensors"
    ]
    return sum(math.prod(entry["shape"]) for path in files for entry in header(path).values())


def _bytes(folders: Iterable[Path]) -> int:
    """Bytes of the files, each once however many names it has."""
    found = {
        (about.st_dev, about.st_ino): about.st_size
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
        for about in [path.stat()]
    }
    return sum(found.values())
