"""What later stages would refuse, said before the first of them; and, once the filter is through, before `encode`.

Nothing here decides a result, so no stage depends on it. Whatever passes is looked at again by the stage that needs it.
"""

import importlib.util
import json
from pathlib import Path

import torch

from prunella.compute.device import device
from prunella.data.buckets import sizes
from prunella.data.manifest import read_manifest
from prunella.encoding.encode import multiple, planned, vae_factor
from prunella.errors import UserError
from prunella.evaluation.metrics import check_metrics, unmet
from prunella.models.families import FAMILIES
from prunella.models.teacher import describe_folder
from prunella.params import MAIN_DATA, Filter, Params, Teacher, named, untuned
from prunella.pipeline.disk_estimate import check_disk
from prunella.pruning.layout import is_student, whole_family
from prunella.pruning.mapping import check_fit
from prunella.pruning.plan import STUDENTS, check_students
from prunella.pruning.succession import succession
from prunella.sampling.benchmark_prompts import file_prompts
from prunella.storage.remote import place
from prunella.tracking.training_estimate import TrainingEstimate, subject_of
from prunella.training.finetune import caption_contains
from prunella.training.memory_estimate import examples_at_once, memory_of, tokens

PINNED = Path("models/teacher.json")
GENERATED = Path("data/generated")
SPLITS = ("train", "heldout")


def check_parameters(params: Params) -> None:
    """What parameters, files and machine say by themselves. Raises UserError of one line that names the key."""
    check_paths(params)
    check_students(params.students, chosen=params.plan.students)
    _check_benchmark(params)
    check_shares(params)
    if params.filter.samples <= params.encode.heldout:
        raise UserError(
            f"encode.heldout: {params.encode.heldout} pairs are to be held out, but filter.samples takes "
            f"{params.filter.samples} at most"
        )
    for name in named(params) if params.distill.phases else ():
        succession(params.distill.phases, STUDENTS[name], STUDENTS)
    device(params.runtime)
    if (unet := known_unet(params.teacher)) is not None:
        check_fits(params, unet)


def _check_benchmark(params: Params) -> None:
    """Metrics and prompts; says once what will not be measured, since nothing here has what it looks through."""
    check_metrics(params.benchmark.metrics)
    for name, why in unmet(params.benchmark).items():
        print(f"benchmark.metrics: {name} will not be measured: {why}", flush=True)
    if params.benchmark.prompts_from == "file":
        file_prompts(Path(params.benchmark.prompt_file), params.encode.resolution)


def check_run(params: Params, folder: Path, pairs: int) -> None:
    """Room in memory and on disk for a run with the teacher's pipeline `folder` on `pairs` pairs; both are said.

    Raises UserError where the disk is too small; memory is estimated, so that there a word has to do.
    """
    check_fits(params, describe_folder(folder, is_student)["unet"])
    sizes(params.encode.buckets, params.encode.resolution, multiple(folder))
    tuning = params.finetune
    every = {"distill": pairs, "finetune": None if tuning.words or tuning.latents != MAIN_DATA else pairs}
    for student in named(params):
        for section in ("distill", "finetune")[: 1 if student in untuned(params) else 2]:
            _memory(params, student, section, folder, every[section]).say()
    check_disk(params, folder, pairs)


def check_pairs(params: Params, folder: Path, manifest: Path) -> tuple[int, str]:
    """What the filter kept, against what is asked of it: how many pairs there are to train on, and a line of counts.

    `folder` is the teacher's. Raises UserError as `encode` and `finetune` would.
    """
    among = sizes(params.encode.buckets, params.encode.resolution, multiple(folder))
    tasks, small = planned(read_manifest(manifest)[1], params.encode, params.seed, among)
    pairs = {split: [pair for task in tasks if task.split == split for pair in task.pairs] for split in SPLITS}
    captions = {split: [caption for pair in some for caption in pair.captions] for split, some in pairs.items()}
    on_these = params.finetune.latents == MAIN_DATA  # words of a set of fine-tuning's own are looked for there
    words = params.finetune.words if on_these else []
    found = {split: len(caption_contains(said, words)) for split, said in captions.items()}
    if not found["train"] and len(untuned(params)) < len(params.students):
        raise UserError(
            f"finetune.words: none of the {len(captions['train'])} captions to train on holds any of {words}; "
            "[] takes all pairs, and finetune.students: [] tunes nobody"
        )
    counts = f"{len(captions['train'])} captions to train on, {len(captions['heldout'])} held out"
    left = f", {small} pairs too small" if small else ""
    among_them = f"; finetune.words: {found['train']} and {found['heldout']} of them" if on_these else ""
    return len(pairs["train"]), f"{counts}{left}{among_them}"


def check_paths(params: Params) -> None:
    """Raises UserError where a path that the run needs leads nowhere."""
    read: dict[str, Teacher | Filter] = {"teacher": params.teacher, "filter": params.filter}
    read |= {f"teachers.{name}": further for name, further in params.teachers.items()}
    read |= {f"finetune.data.{name}.filter": own.filter for name, own in params.finetune.data.items()}
    read |= {f"finetune.base.{name}.model": base.model for name, base in params.finetune.base.items()}
    wanted = {f"{section}.path": each.path for section, each in read.items()}
    models = {"model": params.filter.aesthetic.model, "clip": params.filter.aesthetic.clip}
    wanted |= {f"filter.aesthetic.{name}": path for name, path in models.items() if path}
    for name, made in params.generate.items():
        wanted |= {f"generate.{name}.prompts": made.prompts, f"generate.{name}.model": made.model}
    ours = {PINNED, *(GENERATED / name for name in params.generate)}  # which the run makes
    stores = {"encode.store": params.encode.store}
    stores |= {f"finetune.data.{name}.encode.store": own.encode.store for name, own in params.finetune.data.items()}
    stores |= {f"generate.{name}.store": made.store for name, made in params.generate.items()}
    for key, address in stores.items():
        if address:
            _there(key, address, far=True)  # it need not be there, but its bucket
    for key, path in wanted.items():
        section = read.get(key.removesuffix(".path"))
        pairs = isinstance(section, Filter) and section.source != "scenes"
        if Path(path) in ours or _there(key, path, far=pairs):
            continue
        unread = section and section.source == "hub"
        why = "; source hub does not read it, but DVC needs a path that exists" if unread else ""
        seen = "" if "://" in path else f" (seen from {Path.cwd()})"
        raise UserError(f"{key}: there is no {path}{seen}{why}")


def _there(key: str, path: str, *, far: bool) -> bool:
    """Whether a path leads somewhere, which where `far` may be a store. Raises UserError where that cannot be told."""
    try:
        found = place(path)
        if isinstance(found, Path) or far:
            return found.exists()
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    raise UserError(f"{key}: {path} is on a store; only pairs are read from there, so a path of this machine is needed")


def check_shares(params: Params) -> None:
    """Raises UserError where a batch cannot be shared by the processes, or an optimizer is not installed."""
    team = params.runtime.processes
    for name in ("distill", "finetune"):
        section = getattr(params, name)
        if section.batch_size % team:
            raise UserError(f"{name}.batch_size: {section.batch_size} is no multiple of runtime.processes, {team}")
        if section.optimizer == "adamw-8bit" and not importlib.util.find_spec("bitsandbytes"):
            raise UserError(f"{name}.optimizer: adamw-8bit needs bitsandbytes: pip install 'prunella[8bit]', or adamw")


def check_fits(params: Params, unet: dict) -> None:
    """Raises UserError where a student's plan, or one of its phases', is not for a teacher with this UNet config."""
    for name in named(params):
        plan, phases = STUDENTS[name], params.distill.phases
        for each in [plan, *(succession(phases, plan, STUDENTS) if phases else [])]:
            check_fit(each, unet)
    for name in set(params.students) - set(named(params)):
        whole_family(unet, f"plan.students.{name}")


def known_unet(teacher: Teacher, pinned: Path = PINNED) -> dict | None:
    """The teacher's UNet config, where it can be had without the network and without reading weights."""
    if teacher.source in ("bundled", "folder"):
        return describe_folder(Path(teacher.path), is_student)["unet"]
    known = json.loads(pinned.read_text(encoding="utf-8")) if pinned.is_file() else {}
    named = ("source", "id", "revision") if teacher.source == "hub" else ("source", "path")
    return known["unet"] if known and all(known.get(key) == getattr(teacher, key) for key in named) else None


def _memory(params: Params, student: str, section: str, folder: Path, pairs: int | None) -> TrainingEstimate:
    teacher, settings = describe_folder(folder, is_student), getattr(params, section)
    placed = torch.device(device(params.runtime))
    side = params.encode.resolution // vae_factor(folder)
    example = FAMILIES[teacher["family"]].example(teacher["unet"], (side, side), tokens(folder))
    team, gpu = params.runtime.processes, placed.type == "cuda"
    subject = subject_of(STUDENTS[student], teacher["unet"], example, settings, processes=team, gpu=gpu)
    memory = memory_of(placed, team)
    at_once = examples_at_once(params.runtime.micro_batch, subject, settings, memory)
    return TrainingEstimate(f"{section} {student}", subject, settings, at_once, pairs, placed)
