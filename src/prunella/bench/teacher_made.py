"""What a student learns from pictures that its teacher made, against what it learns from the pictures themselves.

A unit is a student, an arm (`rendered` or `generated`: whose latents are learned from) and a seed. Each unit is a row
of figures, written as soon as it is known; what was interrupted goes on from its last checkpoint. Both arms are
measured alike: on the same held-out pairs, and by the same pictures of captions that no arm has learned from.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prunella.bench.setting import Setting
from prunella.data.filter import filter_dataset
from prunella.encoding.encode import encoded
from prunella.latents.encoders import open_latents
from prunella.latents.shards import MANIFEST, Latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Generate, Params
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.sampling.training_images import generate_images
from prunella.scenes.generator import make_caption
from prunella.stats import Estimate, estimate_paired_difference
from prunella.storage.files import atomic_write_text
from prunella.training.data import heldout_batches, training_batches
from prunella.training.loop import train
from prunella.training.losses import OUTPUT, TASK, Distillation
from prunella.training.validate import evaluate_loss

RENDERED, GENERATED = "rendered", "generated"
CHECKPOINT = 25  # steps


class Unit(NamedTuple):
    student: str
    arm: str
    seed: int


def learned_from(setting: Setting, params: Params, arms: list[str], steps: int, work: Path) -> dict[str, Path]:
    """The latents of each arm; those of teacher-made pictures are made first, in `steps` of the sampler each."""
    folders = {RENDERED: setting.latents}
    return folders | ({GENERATED: made_latents(setting, params, steps, work)} if GENERATED in arms else {})


def made_latents(setting: Setting, params: Params, steps: int, work: Path) -> Path:
    """The latents of pictures that the teacher makes of the captions of `setting.latents`' training pairs.

    Through the very stages: generate, filter, encode; in `work`, where an interrupted one goes on.
    """
    out = work / "latents"
    if (out / MANIFEST).is_file():
        return out
    captions = Latents(setting.latents, "train", texts=dict).captions
    prompts = work / "captions.jsonl"
    atomic_write_text(prompts, "".join(json.dumps({"prompt": text}) + "\n" for text in captions))
    asked = Generate(
        prompts=str(prompts), samples=len(captions), images_per_prompt=1, model=str(setting.teacher), id=None,
        revision="main",
        negative_prompt="", guidance_scale=setting.benchmark.guidance_scale, scheduler="DPMSolverMultistepScheduler",
        num_inference_steps=steps, sizes=[(params.encode.resolution,) * 2], batch_size=setting.benchmark.batch_size,
        precision="fp32", storage="fp32", seed=0, store=None,
    )  # fmt: skip
    pictures = work / "pictures"
    print(generate_images(asked, "teacher-made", prompts, setting.teacher, pictures, setting.device), flush=True)
    taken = params.filter.model_copy(update={"source": "generated", "path": str(pictures), "min_contrast": 0.0})
    filter_dataset(taken, params.seed, work / "pairs")
    settings = params.encode.model_copy(update={"heldout": 1})
    print(encoded(settings, params.seed, setting.teacher, work / "pairs", out, setting.device), flush=True)
    return out


def measured(
    setting: Setting, unit: Unit, learned_from: Path, first_unseen: int, pictures: int, work: Path
) -> dict[str, Any]:
    """Train and measure one unit on the latents `learned_from`; held-out errors are those of `setting.latents`.

    The row: the unit, "steps", "pairs", held-out "task" and "output", and "right", a 0 or 1 for each of `pictures`
    scenes from number `first_unseen` of the series on.
    """
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    student = prune(teacher, STUDENTS[unit.student])
    settings = setting.distill.model_copy(update={"seed": unit.seed})
    kept = work / "-".join(map(str, [*unit, settings.steps]))
    loss = Distillation(teacher, feature_pairs(STUDENTS[unit.student], settings.features), scheduler, settings)
    last = scheduler.config.num_train_timesteps
    learned, _ = open_latents(learned_from, setting.teacher, setting.device)
    _, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    batches, title = training_batches(learned, settings.batch_size, settings, last), " ".join(map(str, unit))
    for _ in train(student, loss, batches, settings, folder=kept, checkpoint_every=CHECKPOINT, title=title):
        pass
    terms = evaluate_loss(student.eval(), loss, heldout_batches(heldout, settings.batch_size, last))
    right = setting.drawn_right(
        student, [make_caption(setting.vocabulary, 0, first_unseen + i) for i in range(pictures)]
    )
    shutil.rmtree(kept, ignore_errors=True)
    return {
        **unit._asdict(), "steps": settings.steps, "pairs": len(learned),
        TASK: terms[TASK], OUTPUT: terms[OUTPUT], "right": list(map(int, right)),
    }  # fmt: skip


def waiting(rows: list[dict[str, Any]], units: list[Unit], steps: int) -> Iterator[Unit]:
    """The units that have no row of so many steps."""
    there = {(Unit(row["student"], row["arm"], row["seed"]), row["steps"]) for row in rows}
    return (unit for unit in units if (unit, steps) not in there)


class Comparison(NamedTuple):
    """Generated against rendered: the ratio of output errors, seed by seed, and the difference of composition."""

    ratios: list[float]
    composition: Estimate  # difference of shares of pictures right, paired by seed and caption


def compared(rows: list[dict[str, Any]]) -> dict[tuple[str, int], Comparison]:
    """(student, steps) → comparison over the seeds that both arms have."""
    by: dict[tuple[str, int], dict[int, dict[str, dict]]] = {}
    for row in rows:
        by.setdefault((row["student"], row["steps"]), {}).setdefault(row["seed"], {})[row["arm"]] = row
    found = {}
    for key, seeds in by.items():
        both = [arms for _, arms in sorted(seeds.items()) if len(arms) == 2]
        if both:
            ratios = [arms[GENERATED][OUTPUT] / arms[RENDERED][OUTPUT] for arms in both]
            right = {arm: [hit for arms in both for hit in arms[arm]["right"]] for arm in (GENERATED, RENDERED)}
            found[key] = Comparison(ratios, estimate_paired_difference(right[GENERATED], right[RENDERED]))
    return found
