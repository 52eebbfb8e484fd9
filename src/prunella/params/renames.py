"""Old names and new ones: modules, their lists of code, and parameters, so that results of earlier versions stay valid.

One table with three readers: a parameter file with an old key is refused by the new name, `prunella accept` finds the
commit that made a result, and an unfinished training goes on (`prunella.compute.resume`).
"""

from typing import Any

# Modules with a list of the code that decides a result, by their paths inside the package: new → old.
MODULES = {
    "data/image_checks.py": "data/looking.py",
    "encoding/encode.py": "latents/encode.py",
    "sampling/benchmark_images.py": "evaluation/gallery/draw.py",
    "training/trainer.py": "training/job.py",
}
# The constants of those modules, new → old.
CONSTANTS = {"CODE_DEPS": "ROOMS"}

_TRAINING = {
    "accumulation": "gradient_accumulation_steps",
    "clip_norm": "max_grad_norm",
    "feature_normalisation": "feature_normalization",
    "schedule": "lr_scheduler",
    "warmup_steps": "lr_warmup_steps",
}
_SAMPLING = {"guidance": "guidance_scale", "inference_steps": "num_inference_steps"}
_FILTER = {"max_broken": "max_corrupt_fraction"}
# Parameters, old → new, by the section as it is called now. `*` stands for an entry's name, or for a number in a list.
_SECTIONS = {
    "benchmark": _SAMPLING | {"real": "reference_images"},
    "benchmark.reference_images": {"pictures": "max_images"},
    "distill": _TRAINING,
    "filter": _FILTER,
    "finetune": _TRAINING | {"rehearsal": "replay_weight", "words": "caption_keywords"},
    "finetune.data.*.filter": _FILTER,
    "finetune.dreambooth": _SAMPLING | {"class_pictures": "class_images", "prior_weight": "prior_loss_weight"},
    "finetune.inversion": {"begin": "initializer_token", "vectors": "num_vectors", "word": "placeholder_token"},
    "finetune.lora": {"targets": "target_modules"},
    "generate.*": _SAMPLING | {"pictures": "images_per_prompt"},
    "plan": {"best": "candidates", "pairs": "samples", "rounds": "tournament_rounds"},
    "promote.gates.*": {"figure": "metric", "of_teacher": "relative_to_teacher"},
    "watch": {"guidance": "guidance_scale", "picture_every": "image_every", "steps": "num_inference_steps"},
}
# Parameters that went to another section.
_MOVED = {
    "distill.checkpoint_every": "watch.checkpoint_every",
    "distill.picture_every": "watch.image_every",
    "finetune.checkpoint_every": "watch.checkpoint_every",
    "finetune.picture_every": "watch.image_every",
}
# Sections whose parameters an identity in work/ holds, where the folder is not called as the section.
_SECTION_OF_FOLDER = {"generate": "generate.*", "prior": "finetune.dreambooth"}


def new_key(key: str) -> str | None:
    """The dotted name that an old key of params.yaml has now; None where it is no old key."""
    section, _, name = key.rpartition(".")
    names = _renames(section)
    return _join(section, names[name]) if name in names else _MOVED.get(key)


def rename_keys(content: Any, section: str = "") -> Any:
    """A copy of the `content` of a section, by its dotted name ("": the whole file), with new keys for old ones.

    A section that has a key under both names is left to the check of parameters, which refuses the old one.
    """
    if isinstance(content, list):
        return [rename_keys(value, _join(section, str(number))) for number, value in enumerate(content)]
    if not isinstance(content, dict):
        return content
    names = {old: new for old, new in _renames(section).items() if new not in content}
    renamed = {}
    for name, value in content.items():
        key = names.get(str(name), name)
        renamed[key] = rename_keys(value, _join(section, str(key)))
    return renamed


def restore_keys(content: Any, known: Any, section: str = "") -> Any:
    """The reverse of `rename_keys`: the old names of those keys that `known`, an older version's defaults, calls so."""
    if isinstance(content, list):
        first = known[0] if isinstance(known, list) and known else None
        return [restore_keys(value, first, _join(section, str(number))) for number, value in enumerate(content)]
    if not isinstance(content, dict):
        return content
    inner = known if isinstance(known, dict) else {}
    names = {new: old for old, new in _renames(section).items() if old in inner}
    return {
        names.get(name, name): restore_keys(value, inner.get(names.get(name, name)), _join(section, name))
        for name, value in content.items()
    }


def folder_section(folder: str) -> str:
    """The section whose parameters the identities in work/FOLDER hold."""
    kind = folder.partition("-")[0]
    return _SECTION_OF_FOLDER.get(kind, kind)


def _renames(section: str) -> dict[str, str]:
    names = section.split(".")
    for pattern, keys in _SECTIONS.items():
        parts = pattern.split(".")
        if len(parts) == len(names) and all(part in ("*", name) for part, name in zip(parts, names, strict=True)):
            return keys
    return {}


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
