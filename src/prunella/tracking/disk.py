"""What a whole run takes on the disk, reckoned before it begins; each stage asks again for what it writes itself."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from prunella.compute.workdir import work_root
from prunella.errors import UserError
from prunella.latents.encode import vae_factor
from prunella.models.configs import models, stem
from prunella.models.families import FAMILIES
from prunella.models.teacher import describe_folder
from prunella.models.weights import check_part, header
from prunella.params import Learning, Params, named
from prunella.pruning.layout import is_student
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS
from prunella.training.memory import GB, parameters, tokens

HERE = ("work", "data", "models")  # folders of what a run writes
BITS = {"fp32": 4, "fp16": 2}  # bytes of a stored number
PIXEL = 2  # bytes of a drawn pixel in a PNG, about


def check_disk(params: Params, folder: Path, pairs: int) -> None:
    """Print what the run with the teacher's pipeline `folder` will take, on `pairs` pairs.

    Raises UserError where what lies in work/ alone is more than there is room for. Models and pictures go to DVC's
    cache, which may be elsewhere, so of those a word is said.
    """
    parts = room_for(params, folder, pairs)
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
    kept = sum(_state(size, training) for size in students for training in trainings)
    while_one_runs = max(_while_training(size, training) for size in students for training in trainings)
    side = params.encode.resolution
    drawn = min(params.benchmark.prompts, params.encode.heldout) * side**2 * PIXEL
    others = 4 * _other_parameters(folder, teacher["family"])
    unets = [BITS[params.prune.storage], *(2 * BITS[training.storage] for training in trainings)]  # twice: best weights
    return {
        "latents": pairs * _pair(params, folder, teacher),
        "states": kept + while_one_runs,
        "models": sum(size * bits + others for size in students for bits in unets),
        "pictures": drawn * (1 + 3 * len(students)),
    }


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
