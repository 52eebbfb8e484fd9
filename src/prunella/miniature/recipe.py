"""The miniature's recipe, `recipe.yaml`, checked like `params.yaml`."""

from pathlib import Path
from typing import Any, Literal

import yaml

from prunella.params import ConfigSection, Fraction, NonNegativeFloat, PositiveInt, Seed, Training, validate_config

RECIPE_FILE = Path(__file__).with_name("recipe.yaml")


class ComponentTraining(Training):
    """A training of a part, with its cadence of checkpoints; a batch a step and plain AdamW unless stated."""

    checkpoint_every: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"


class AutoencoderConfig(ConfigSection):
    config: dict[str, Any]
    kl_weight: NonNegativeFloat
    decorrelation: NonNegativeFloat
    noise: NonNegativeFloat
    crop: PositiveInt
    training: ComponentTraining
    polish: ComponentTraining


class DenoiserConfig(ConfigSection):
    unet: dict[str, Any]
    text: dict[str, Any]
    naming: ComponentTraining
    scheduler: dict[str, Any]
    caption_dropout: Fraction
    noisier: Fraction
    training: ComponentTraining


class MiniatureRecipe(ConfigSection):
    seed: Seed
    pictures: PositiveInt
    autoencoder: AutoencoderConfig
    denoiser: DenoiserConfig


def read_miniature_recipe(path: Path | str = RECIPE_FILE) -> MiniatureRecipe:
    return validate_config(MiniatureRecipe, yaml.safe_load(Path(path).read_text()), str(path))
