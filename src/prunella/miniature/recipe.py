"""The miniature's recipe, `recipe.yaml`, checked like `params.yaml`."""

from pathlib import Path
from typing import Any, Literal

import yaml

from prunella.params import Amount, Count, Section, Seed, Share, Training, check

RECIPE = Path(__file__).with_name("recipe.yaml")


class Part(Training):
    """A training of a part, with its cadence of checkpoints; a batch a step and plain AdamW unless stated."""

    checkpoint_every: Count
    accumulation: Count = 1
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"


class Autoencoder(Section):
    config: dict[str, Any]
    kl_weight: Amount
    decorrelation: Amount
    noise: Amount
    crop: Count
    training: Part
    polish: Part


class Denoiser(Section):
    unet: dict[str, Any]
    text: dict[str, Any]
    naming: Part
    scheduler: dict[str, Any]
    caption_dropout: Share
    noisier: Share
    training: Part


class Recipe(Section):
    seed: Seed
    pictures: Count
    autoencoder: Autoencoder
    denoiser: Denoiser


def read_recipe(path: Path | str = RECIPE) -> Recipe:
    return check(Recipe, yaml.safe_load(Path(path).read_text()), str(path))
