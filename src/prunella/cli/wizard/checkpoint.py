"""The checkpoint that someone means by a path or a Hub id, and of which family it is.

Configs and headers are read, no weights; the Hub is looked for in the local cache, the network is not asked.
"""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prunella.encoding.encode import vae_scale_factor
from prunella.errors import UserError
from prunella.models import hub
from prunella.models.families import FAMILIES
from prunella.models.reference_configs import load_reference_configs
from prunella.models.teacher import CONFIG_REPOS, describe_pipeline_dir
from prunella.models.weights import PICKLE_SUFFIXES, read_header, refuse_pickle
from prunella.training.memory_estimate import count_tokens

CheckpointSource = Literal["folder", "file", "hub"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What stands for a checkpoint of which no configs are here: an original, the side of its pictures in pixels.
REFERENCE_MODELS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd15", 512),
    "stabilityai/stable-diffusion-2-1": ("sd21", 768),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", 1024),
}
DEFAULT_MODELS = {
    "sd": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
CLIP_TOKENS, VAE_FACTOR = 77, 8  # of all originals: tokens of a caption, pixels to a latent's one


class Checkpoint(NamedTuple):
    """A teacher as far as it is known; of a Hub model that is not in the cache that may be its name alone."""

    source: CheckpointSource
    name: str  # a path or a Hub id
    family: str | None
    unet_config: dict[str, Any]  # its config
    image_size: int  # pixels of its own pictures
    latent_size: int  # its latents' side
    max_tokens: int

    def with_family_defaults(self, family: str) -> "Checkpoint":
        """The same with what is usual in a family."""
        return _make_from_reference(self.source, self.name, DEFAULT_MODELS[family])

    def __str__(self) -> str:
        kind = f"{FAMILIES[self.family].title}, {self.image_size} pixels" if self.family else "not downloaded"
        return f"{self.name} ({kind})"


def detect_checkpoint(name: str) -> Checkpoint:
    """The checkpoint that a path or a Hub id names.

    Raises UserError where it is no pipeline folder, no checkpoint of one file and no Hub id, or none that can be a
    teacher.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _detect_folder("folder", str(path), path)
    if path.is_file():
        return _detect_single_file(path)
    if not HUB_ID.fullmatch(name) or Path(name).parent.is_dir() or path.suffix in (".safetensors", *PICKLE_SUFFIXES):
        raise UserError(
            f"{name}: there is no such folder or file, and it is no Hub id such as owner/model; a diffusers pipeline "
            "folder, a .safetensors checkpoint or a Hub id is expected"
        )
    return _detect_on_hub(name)


def _detect_folder(source: CheckpointSource, name: str, folder: Path) -> Checkpoint:
    try:
        pipeline_info = describe_pipeline_dir(folder)
    except UserError as error:
        raise UserError(str(error).removeprefix("teacher.path: ")) from None
    latent_size = pipeline_info["unet"]["sample_size"]
    return Checkpoint(
        source,
        name,
        pipeline_info["family"],
        pipeline_info["unet"],
        latent_size * vae_scale_factor(folder),
        latent_size,
        count_tokens(folder),
    )


def _detect_single_file(path: Path) -> Checkpoint:
    if path.suffix in PICKLE_SUFFIXES:
        refuse_pickle(path)
    tensor_names = read_header(path)
    for prefix, original in CONFIG_REPOS.items():
        if any(name.startswith(prefix) for name in tensor_names):
            return _make_from_reference("file", str(path), original)
    raise UserError(f"{path}: has no text encoder of SD 1.x, 2.x or SDXL, so it is no whole checkpoint of one file")


def _detect_on_hub(name: str) -> Checkpoint:
    unknown_checkpoint = Checkpoint("hub", name, None, {}, 0, 0, 0)
    try:
        folder = hub.hub_snapshot(name, "main", hub.CONFIG_PATTERNS, local_files_only=True)
    except UserError:
        return _make_from_reference("hub", name, name) if name in REFERENCE_MODELS else unknown_checkpoint
    return _detect_folder("hub", name, folder) if (folder / "unet" / "config.json").is_file() else unknown_checkpoint


def _make_from_reference(source: CheckpointSource, name: str, original: str) -> Checkpoint:
    kind, image_size = REFERENCE_MODELS[original]
    family = "sdxl" if kind == "sdxl" else "sd"
    return Checkpoint(
        source, name, family, load_reference_configs()[kind], image_size, image_size // VAE_FACTOR, CLIP_TOKENS
    )
