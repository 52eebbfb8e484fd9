"""The miniature's recipe, `recipe.yaml`, checked like `params.yaml`."""

from pathlib import Path
from typing import Any, Literal

import yaml

from prunella.params import ConfigSection, Fraction, NonNegativeFloat, PositiveInt, Seed, Training, validate_config

RECIPE = Path(__file__).with_name("recipe.yaml")


class Part(Training):
    """A training of a part, with its cadence of checkpoints; a batch a step and plain AdamW unless stated."""

    checkpoint_every: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"


class Autoencoder(ConfigSection):
    config: dict[str, Any]
    kl_weight: NonNegativeFloat
    decorrelation: NonNegativeFloat
    noise: NonNegativeFloat
    crop: PositiveInt
    training: Part
    polish: Part


class Denoiser(ConfigSection):
    unet: dict[str, Any]
    text: dict[str, Any]
    naming: Part
    scheduler: dict[str, Any]
    caption_dropout: Fraction
    noisier: Fraction
    training: Part


class Recipe(ConfigSection):
    seed: Seed
    pictures: PositiveInt
    autoencoder: Autoencoder
    denoiser: Denoiser


def read_recipe(path: Path | str = RECIPE) -> Recipe:
    return validate_config(Recipe, yaml.safe_load(Path(path).read_text()), str(path))
