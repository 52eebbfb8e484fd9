"""The miniature's recipe, `recipe.yaml`, checked like `params.yaml`."""

from pathlib import Path
from typing import Any

import yaml

from prunella.params import Amount, Count, Section, Seed, Share, Training, check

RECIPE = Path(__file__).with_name("recipe.yaml")


class Autoencoder(Section):
    config: dict[str, Any]
    kl_weight: Amount
    decorrelation: Amount
    noise: Amount
    crop: Count
    training: Training
    polish: Training


class Denoiser(Section):
    unet: dict[str, Any]
    text: dict[str, Any]
    naming: Training
    scheduler: dict[str, Any]
    caption_dropout: Share
    noisier: Share
    training: Training


class Recipe(Section):
    seed: Seed
    pictures: Count
    autoencoder: Autoencoder
    denoiser: Denoiser


def read_recipe(path: Path | str = RECIPE) -> Recipe:
    return check(Recipe, yaml.safe_load(Path(path).read_text()), str(path))
