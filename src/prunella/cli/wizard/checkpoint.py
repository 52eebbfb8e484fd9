"""Which checkpoint someone means by a path or a Hub id, and of which family it is.

Configs and headers are read, no weights; the Hub is looked for in the local cache, the network is not asked.
"""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prunella.encoding.encode import vae_factor
from prunella.errors import UserError
from prunella.models import hub
from prunella.models.families import FAMILIES
from prunella.models.reference_configs import originals
from prunella.models.teacher import SINGLE, describe_folder
from prunella.models.weights import PICKLES, header, refuse_pickle
from prunella.training.memory_estimate import tokens

Source = Literal["folder", "file", "hub"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What stands for a checkpoint of which no configs are here: an original, the side of its pictures in pixels.
STANDS_FOR = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd15", 512),
    "stabilityai/stable-diffusion-2-1": ("sd21", 768),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", 1024),
}
USUAL = {"sd": "stable-diffusion-v1-5/stable-diffusion-v1-5", "sdxl": "stabilityai/stable-diffusion-xl-base-1.0"}
CLIP_TOKENS, VAE_FACTOR = 77, 8  # of all originals: tokens of a caption, pixels to a latent's one


class Checkpoint(NamedTuple):
    """A teacher as far as it is known; of a Hub model that is not in the cache that may be its name alone."""

    source: Source
    name: str  # a path or a Hub id
    family: str | None
    unet: dict[str, Any]  # its config
    side: int  # pixels of its own pictures
    latent: int  # its latents' side
    tokens: int

    def like(self, family: str) -> "Checkpoint":
        """The same with what is usual in a family."""
        return _like(self.source, self.name, USUAL[family])

    def __str__(self) -> str:
        kind = f"{FAMILIES[self.family].title}, {self.side} pixels" if self.family else "not downloaded"
        return f"{self.name} ({kind})"


def recognised(name: str) -> Checkpoint:
    """The checkpoint that a path or a Hub id names.

    Raises UserError where it is no pipeline folder, no checkpoint of one file and no Hub id, or none that can be a
    teacher.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder("folder", str(path), path)
    if path.is_file():
        return _file(path)
    if not HUB_ID.fullmatch(name) or Path(name).parent.is_dir() or path.suffix in (".safetensors", *PICKLES):
        raise UserError(
            f"{name}: there is no such folder or file, and it is no Hub id such as owner/model; a diffusers pipeline "
            "folder, a .safetensors checkpoint or a Hub id is expected"
        )
    return _on_the_hub(name)


def _folder(source: Source, name: str, folder: Path) -> Checkpoint:
    try:
        told = describe_folder(folder)
    except UserError as error:
        raise UserError(str(error).removeprefix("teacher.path: ")) from None
    latent = told["unet"]["sample_size"]
    return Checkpoint(source, name, told["family"], told["unet"], latent * vae_factor(folder), latent, tokens(folder))


def _file(path: Path) -> Checkpoint:
    if path.suffix in PICKLES:
        refuse_pickle(path)
    names = header(path)
    for prefix, original in SINGLE.items():
        if any(name.startswith(prefix) for name in names):
            return _like("file", str(path), original)
    raise UserError(f"{path}: has no text encoder of SD 1.x, 2.x or SDXL, so it is no whole checkpoint of one file")


def _on_the_hub(name: str) -> Checkpoint:
    unknown = Checkpoint("hub", name, None, {}, 0, 0, 0)
    try:
        folder = hub.snapshot(name, "main", hub.CONFIGS, cached=True)
    except UserError:
        return _like("hub", name, name) if name in STANDS_FOR else unknown
    return _folder("hub", name, folder) if (folder / "unet" / "config.json").is_file() else unknown


def _like(source: Source, name: str, original: str) -> Checkpoint:
    kind, side = STANDS_FOR[original]
    family = "sdxl" if kind == "sdxl" else "sd"
    return Checkpoint(source, name, family, originals()[kind], side, side // VAE_FACTOR, CLIP_TOKENS)
