"""Errors of later stages, said before the first of them; and, once the filter is through, before `encode`.

Nothing here decides a result, so no stage depends on it. Everything that passes is looked at again by the stage that
needs it.
"""

import importlib.util
import json
from pathlib import Path

import torch

from prunella.compute.device import resolve_device
from prunella.data.buckets import bucket_sizes
from prunella.data.manifest import read_sample_manifest
from prunella.encoding.encode import plan_shards, size_multiple, vae_scale_factor
from prunella.errors import UserError
from prunella.evaluation.metrics import check_metrics, find_unavailable_metrics
from prunella.models.families import FAMILIES
from prunella.models.teacher import describe_pipeline_dir
from prunella.params import (
    MAIN_LATENTS_DIR,
    Filter,
    ModelSource,
    Params,
    students_not_finetuned,
    students_with_fixed_plan,
)
from prunella.pipeline.disk_estimate import check_disk
from prunella.pruning.layout import is_student, require_full_family
from prunella.pruning.mapping import check_plan_compatible
from prunella.pruning.plan import STUDENTS, check_students
from prunella.pruning.succession import resolve_phase_plans
from prunella.sampling.benchmark_prompts import read_prompt_file
from prunella.storage.remote import parse_location
from prunella.tracking.training_estimate import TrainingEstimate, make_memory_spec
from prunella.training.finetune import find_captions_with
from prunella.training.memory_estimate import choose_micro_batch, count_tokens, memory_per_process

TEACHER_PIN = Path("models/teacher.json")
GENERATED_DIR = Path("data/generated")
SPLITS = ("train", "heldout")


def check_parameters(params: Params) -> None:
    """Checks of parameters, files and machine by themselves. Raises UserError of one line that names the key."""
    check_paths(params)
    check_students(params.students, auto_students=params.plan.students)
    _check_benchmark(params)
    check_batch_sizes(params)
    if params.filter.samples <= params.encode.heldout:
        raise UserError(
            f"encode.heldout: {params.encode.heldout} pairs are to be held out, but filter.samples takes "
            f"{params.filter.samples} at most"
        )
    for name in students_with_fixed_plan(params) if params.distill.phases else ():
        resolve_phase_plans(params.distill.phases, STUDENTS[name], STUDENTS)
    resolve_device(params.runtime)
    if (teacher_config := find_teacher_config(params.teacher)) is not None:
        check_plans(params, teacher_config)


def _check_benchmark(params: Params) -> None:
    """Metrics and prompts; says once what will not be measured, since nothing here has what it looks through."""
    check_metrics(params.benchmark.metrics)
    for name, reason in find_unavailable_metrics(params.benchmark).items():
        print(f"benchmark.metrics: {name} will not be measured: {reason}", flush=True)
    if params.benchmark.prompts_from == "file":
        read_prompt_file(Path(params.benchmark.prompt_file), params.encode.resolution)


def check_run(params: Params, folder: Path, num_samples: int) -> None:
    """Room in memory and on disk for a run with the teacher's pipeline `folder` on `num_samples` pairs; both are said.

    Raises UserError where the disk is too small; memory is estimated, so that there a word has to do.
    """
    check_plans(params, describe_pipeline_dir(folder, is_student)["unet"])
    bucket_sizes(params.encode.buckets, params.encode.resolution, size_multiple(folder))
    finetune = params.finetune
    samples_by_section = {
        "distill": num_samples,
        "finetune": None if finetune.caption_keywords or finetune.latents != MAIN_LATENTS_DIR else num_samples,
    }
    for student in students_with_fixed_plan(params):
        for section in ("distill", "finetune")[: 1 if student in students_not_finetuned(params) else 2]:
            _estimate_student_training(params, student, section, folder, samples_by_section[section]).print_summary()
    check_disk(params, folder, num_samples)


def check_filtered_samples(params: Params, folder: Path, manifest: Path) -> tuple[int, str]:
    """The filter's result, against what is asked of it: how many pairs there are to train on, and a line of counts.

    `folder` is the teacher's. Raises UserError as `encode` and `finetune` would.
    """
    allowed_sizes = bucket_sizes(params.encode.buckets, params.encode.resolution, size_multiple(folder))
    tasks, num_too_small = plan_shards(read_sample_manifest(manifest)[1], params.encode, params.seed, allowed_sizes)
    samples = {split: [sample for task in tasks if task.split == split for sample in task.pairs] for split in SPLITS}
    split_captions = {
        split: [caption for sample in split_samples for caption in sample.captions]
        for split, split_samples in samples.items()
    }
    uses_main_data = (
        params.finetune.latents == MAIN_LATENTS_DIR
    )  # words of a set of fine-tuning's own are looked for there
    words = params.finetune.caption_keywords if uses_main_data else []
    matches = {
        split: len(find_captions_with(captions_of_split, words)) for split, captions_of_split in split_captions.items()
    }
    if not matches["train"] and len(students_not_finetuned(params)) < len(params.students):
        raise UserError(
            f"finetune.caption_keywords: none of the {len(split_captions['train'])} captions to train on holds any of "
            f"{words}; "
            "[] takes all pairs, and finetune.students: [] tunes nobody"
        )
    counts_text = f"{len(split_captions['train'])} captions to train on, {len(split_captions['heldout'])} held out"
    too_small_text = f", {num_too_small} pairs too small" if num_too_small else ""
    keywords_text = (
        f"; finetune.caption_keywords: {matches['train']} and {matches['heldout']} of them" if uses_main_data else ""
    )
    return len(samples["train"]), f"{counts_text}{too_small_text}{keywords_text}"


def check_paths(params: Params) -> None:
    """Raises UserError where a path that the run needs leads nowhere."""
    sections: dict[str, ModelSource | Filter] = {"teacher": params.teacher, "filter": params.filter}
    sections |= {f"teachers.{name}": teacher for name, teacher in params.teachers.items()}
    sections |= {f"finetune.data.{name}.filter": dataset.filter for name, dataset in params.finetune.data.items()}
    sections |= {f"finetune.base.{name}.model": base.model for name, base in params.finetune.base.items()}
    required_paths = {f"{section}.path": config.path for section, config in sections.items()}
    models = {"model": params.filter.aesthetic.model, "clip": params.filter.aesthetic.clip}
    required_paths |= {f"filter.aesthetic.{name}": path for name, path in models.items() if path}
    for name, generate_config in params.generate.items():
        required_paths |= {
            f"generate.{name}.prompts": generate_config.prompts,
            f"generate.{name}.model": generate_config.model,
        }
    produced_paths = {TEACHER_PIN, *(GENERATED_DIR / name for name in params.generate)}  # which the run makes
    remote_addresses = {"encode.store": params.encode.store}
    remote_addresses |= {
        f"finetune.data.{name}.encode.store": dataset.encode.store for name, dataset in params.finetune.data.items()
    }
    remote_addresses |= {
        f"generate.{name}.store": generate_config.store for name, generate_config in params.generate.items()
    }
    for key, address in remote_addresses.items():
        if address:
            _path_exists(key, address, allow_remote=True)  # it need not be there, but its bucket
    for key, path in required_paths.items():
        section = sections.get(key.removesuffix(".path"))
        allow_remote = isinstance(section, Filter) and section.source != "scenes"
        if Path(path) in produced_paths or _path_exists(key, path, allow_remote=allow_remote):
            continue
        is_unread = section and section.source == "hub"
        reason = "; source hub does not read it, but DVC needs a path that exists" if is_unread else ""
        cwd_text = "" if "://" in path else f" (seen from {Path.cwd()})"
        raise UserError(f"{key}: there is no {path}{cwd_text}{reason}")


def _path_exists(key: str, path: str, *, allow_remote: bool) -> bool:
    """Whether a path leads somewhere, which where `allow_remote` may be a store.

    Raises UserError where that cannot be told.
    """
    try:
        location = parse_location(path)
        if isinstance(location, Path) or allow_remote:
            return location.exists()
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    raise UserError(f"{key}: {path} is on a store; only pairs are read from there, so a path of this machine is needed")


def check_batch_sizes(params: Params) -> None:
    """Raises UserError where a batch cannot be shared by the processes, or an optimizer is not installed."""
    processes = params.runtime.processes
    for name in ("distill", "finetune"):
        section = getattr(params, name)
        if section.batch_size % processes:
            raise UserError(f"{name}.batch_size: {section.batch_size} is no multiple of runtime.processes, {processes}")
        if section.optimizer == "adamw-8bit" and not importlib.util.find_spec("bitsandbytes"):
            raise UserError(f"{name}.optimizer: adamw-8bit needs bitsandbytes: pip install 'prunella[8bit]', or adamw")


def check_plans(params: Params, teacher_config: dict) -> None:
    """Raises UserError where a student's plan, or one of its phases', is not for a teacher with this UNet config."""
    for name in students_with_fixed_plan(params):
        plan, phases = STUDENTS[name], params.distill.phases
        for each_plan in [plan, *(resolve_phase_plans(phases, plan, STUDENTS) if phases else [])]:
            check_plan_compatible(each_plan, teacher_config)
    for name in set(params.students) - set(students_with_fixed_plan(params)):
        require_full_family(teacher_config, f"plan.students.{name}")


def find_teacher_config(teacher: ModelSource, pin_path: Path = TEACHER_PIN) -> dict | None:
    """The teacher's UNet config, where it can be had without the network and without reading weights."""
    if teacher.source in ("bundled", "folder"):
        return describe_pipeline_dir(Path(teacher.path), is_student)["unet"]
    pin = json.loads(pin_path.read_text(encoding="utf-8")) if pin_path.is_file() else {}
    identity_keys = ("source", "id", "revision") if teacher.source == "hub" else ("source", "path")
    return pin["unet"] if pin and all(pin.get(key) == getattr(teacher, key) for key in identity_keys) else None


def _estimate_student_training(
    params: Params, student: str, section: str, folder: Path, num_samples: int | None
) -> TrainingEstimate:
    teacher_info, settings = describe_pipeline_dir(folder, is_student), getattr(params, section)
    torch_device = torch.device(resolve_device(params.runtime))
    latent_size = params.encode.resolution // vae_scale_factor(folder)
    example = FAMILIES[teacher_info["family"]].example_shapes(
        teacher_info["unet"], (latent_size, latent_size), count_tokens(folder)
    )
    processes, on_gpu = params.runtime.processes, torch_device.type == "cuda"
    memory_spec = make_memory_spec(
        STUDENTS[student], teacher_info["unet"], example, settings, processes=processes, gpu=on_gpu
    )
    memory_bytes = memory_per_process(torch_device, processes)
    micro_batch = choose_micro_batch(params.runtime.micro_batch, memory_spec, settings, memory_bytes)
    return TrainingEstimate(f"{section} {student}", memory_spec, settings, micro_batch, num_samples, torch_device)
