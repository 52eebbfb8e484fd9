"""Disk space of a whole run, reckoned before it begins; each stage asks again for what it writes itself."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from prunella.compute.resume import work_root
from prunella.encoding.encode import vae_scale_factor
from prunella.errors import UserError
from prunella.models.configs import list_model_components, weights_stem
from prunella.models.families import FAMILIES
from prunella.models.teacher import describe_pipeline_dir
from prunella.models.weights import check_weight_files, read_header
from prunella.params import DiffusionTraining, Params, students_with_fixed_plan
from prunella.pruning.layout import is_student
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS
from prunella.training.memory_estimate import GB, count_parameters, count_tokens

RUN_DIRS = ("work", "data", "models")  # folders of what a run writes
BYTES_PER_NUMBER = {"fp32": 4, "fp16": 2}  # bytes of a stored number
BYTES_PER_PIXEL = 2  # bytes of a drawn pixel in a PNG, about


def check_disk(params: Params, folder: Path, num_samples: int) -> None:
    """Print what the run with the teacher's pipeline `folder` will take, on `num_samples` pairs.

    Raises UserError where what lies in work/ alone is more than there is room for. Models and pictures go to DVC's
    cache, which may be elsewhere, so of those a word is said.
    """
    breakdown = estimate_bytes(params, folder, num_samples)
    if missing_bases := sorted(params.finetune.base.keys() - _count_base_parameters(params)):
        print(f"disk: without finetune.base.{', '.join(missing_bases)}, which is in no folder here", flush=True)
    total_bytes, work_bytes = sum(breakdown.values()), breakdown["latents"] + breakdown["states"]
    root = work_root().parent
    free_bytes, existing_bytes = shutil.disk_usage(root).free, _count_file_bytes(root / name for name in RUN_DIRS)
    breakdown_text = ", ".join(f"{name} {size / GB:.2f}" for name, size in breakdown.items())
    print(
        f"disk: about {total_bytes / GB:.2f} GB ({breakdown_text}); {free_bytes / GB:.2f} GB are free and "
        f"{existing_bytes / GB:.2f} GB are this "
        f"folder's already{'' if total_bytes <= free_bytes + existing_bytes else ': that will hardly do'}",
        flush=True,
    )
    if work_bytes > free_bytes + existing_bytes:
        raise UserError(
            f"disk: {work_bytes / GB:,.2f} GB are needed at {root.resolve()} for latents and the trainings' states, "
            f"{free_bytes / GB:,.2f} GB are free and {existing_bytes / GB:,.2f} GB this folder's already; fewer "
            "students, "
            "filter.samples or encode.storage fp16 take less"
        )


def estimate_bytes(params: Params, folder: Path, num_samples: int) -> dict[str, int]:
    """Bytes by what they are for."""
    teacher_info = describe_pipeline_dir(folder, is_student)
    student_sizes = [
        count_parameters(student_config(STUDENTS[name], teacher_info["unet"]))
        for name in students_with_fixed_plan(params)
    ]
    student_sizes += [count_parameters(teacher_info["unet"])] * (
        len(params.students) - len(student_sizes)
    )  # not chosen yet: at most
    trainings = (params.distill, params.finetune)
    bases = _count_base_parameters(params).values()
    trained_sizes = [(size, training) for size in student_sizes for training in trainings]
    trained_sizes += [(size, params.finetune) for size, _ in bases]
    final_state_bytes = sum(_estimate_state_bytes(*size_and_training) for size_and_training in trained_sizes)
    extra_peak_bytes = max(_estimate_extra_peak_bytes(*size_and_training) for size_and_training in trained_sizes)
    image_size = params.encode.resolution
    image_bytes = min(params.benchmark.prompts, params.encode.heldout) * image_size**2 * BYTES_PER_PIXEL
    other_bytes = 4 * _count_other_parameters(folder, teacher_info["family"])
    bytes_per_saved_number = [
        BYTES_PER_NUMBER[params.prune.storage],
        *(2 * BYTES_PER_NUMBER[training.storage] for training in trainings),
    ]  # twice: best weights
    return {
        "latents": 0 if params.encode.store else num_samples * _estimate_sample_bytes(params, folder, teacher_info),
        "states": final_state_bytes + extra_peak_bytes,
        "models": sum(
            size * number_bytes + other_bytes for size in student_sizes for number_bytes in bytes_per_saved_number
        )
        + sum(size * bytes_per_saved_number[-1] + 4 * other_numbers for size, other_numbers in bases),
        "pictures": image_bytes * (1 + 3 * len(student_sizes) + 2 * len(bases)),
    }


def _count_base_parameters(params: Params) -> dict[str, tuple[int, int]]:
    """Numbers in the UNet of each of `finetune.base` that is a folder here, and in its other parts.

    Raises UserError where one is no Stable Diffusion.
    """
    counts = {}
    for name, base in params.finetune.base.items():
        if base.model.source in ("bundled", "folder"):
            folder = Path(base.model.path)
            try:
                pipeline_info = describe_pipeline_dir(folder, lambda _: True)
            except UserError as error:  # which names the section `teacher`
                raise UserError(str(error).replace("teacher.", f"finetune.base.{name}.model.")) from None
            counts[name] = (
                count_parameters(pipeline_info["unet"]),
                _count_other_parameters(folder, pipeline_info["family"]),
            )
    return counts


def _estimate_state_bytes(size: int, training: DiffusionTraining) -> int:
    """Disk space of a training's results: its last state, and its best weights."""
    return 4 * size * ((4 if training.ema_decay else 3) + 1)


def _estimate_extra_peak_bytes(size: int, training: DiffusionTraining) -> int:
    """Additional disk space while it runs: two more states, and the best weights once more."""
    return 4 * size * (2 * (4 if training.ema_decay else 3) + 1)


def _estimate_sample_bytes(params: Params, folder: Path, teacher_info: dict) -> int:
    """Bytes of an encoded pair with one caption."""
    latent_size = params.encode.resolution // vae_scale_factor(folder)
    shapes = FAMILIES[teacher_info["family"]].example_shapes(
        teacher_info["unet"], (latent_size, latent_size), count_tokens(folder)
    )
    number_bytes = BYTES_PER_NUMBER[params.encode.storage]
    text_bytes = sum(math.prod(shapes[name]) for name in ("states", "pooled") if name in shapes) * number_bytes
    if params.encode.text == "tokens":
        text_bytes = 4 * count_tokens(folder) * len(FAMILIES[teacher_info["family"]].text_encoders)
    orientations = 2 if params.encode.flip else 1
    return 2 * orientations * math.prod(shapes["latents"]) * number_bytes + text_bytes  # mean and std


def _count_other_parameters(folder: Path, family: str) -> int:
    """Numbers in the parts of a pipeline beside the UNet."""
    files = [
        path
        for component, (library, _) in list_model_components(folder, family).items()
        if component != "unet"
        for path in check_weight_files(folder / component, True, weights_stem(library))
        if path.suffix == ".safetensors"
    ]
    return sum(math.prod(entry["shape"]) for path in files for entry in read_header(path).values())


def _count_file_bytes(folders: Iterable[Path]) -> int:
    """Bytes of the files, each once however many names it has."""
    size_by_inode = {
        (stat.st_dev, stat.st_ino): stat.st_size
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
        for stat in [path.stat()]
    }
    return sum(size_by_inode.values())
