"""Keys that every training has."""

from typing import Annotated, Literal

from pydantic import Field

from prunella.params.fields import (
    ConfigSection,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Precision,
    Seed,
    StorageDtype,
)


class Training(ConfigSection):
    """Keys of every training; the loop reads nothing else."""

    steps: PositiveInt = Field(description="Optimizer steps.")
    batch_size: PositiveInt = Field(description="Examples in a batch, over all processes.")
    gradient_accumulation_steps: PositiveInt = Field(description="Batches a step.")
    optimizer: Literal["adamw", "adamw-8bit"] = Field(description="adamw, or adamw-8bit (bitsandbytes).")
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="Peak learning rate.")
    lr_warmup_steps: NonNegativeInt = Field(description="Steps of linear warm-up.")
    lr_scheduler: Literal["constant", "cosine", "linear"] = Field(description="constant, cosine or linear.")
    weight_decay: NonNegativeFloat = Field(description="Weight decay of AdamW.")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(description="Gradients are clipped to this norm.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Decay of the exponential moving average of the weights; 0: no average."
    )
    precision: Precision = Field(description="fp32, tf32, bf16 or fp16.")
    seed: Seed = Field(description="Seed of the order of examples, noise, timesteps and dropout.")


AdamBeta = Annotated[float, Field(ge=0, lt=1)]


class DiffusionTraining(Training):
    """Keys that distillation and fine-tuning share."""

    betas: tuple[AdamBeta, AdamBeta] = Field(
        description="Decay rates of AdamW's averages of the gradient and its square."
    )
    eps: Annotated[float, Field(gt=0)] = Field(description="Epsilon of AdamW; 1.0e-6 is more stable with bf16 or fp16.")
    snr_gamma: Annotated[float, Field(gt=0)] | None = Field(
        description="Gamma of min-SNR loss weighting, usually 5; null: all timesteps have the same weight."
    )
    noise_offset: NonNegativeFloat = Field(
        description="Offset noise, like 0.05, for darker and brighter images; 0: off."
    )
    shuffle_shards: PositiveInt | None = Field(
        description="Number of shards whose pairs are shuffled together; null: all (docs/scale.md)."
    )
    caption_dropout: Fraction = Field(
        description="Fraction of captions replaced by the empty caption; classifier-free guidance needs it."
    )
    gradient_checkpointing: bool = Field(description="Slower by a quarter, much less memory.")
    evaluate_every: PositiveInt = Field(description="Steps between validations on the held-out pairs.")
    patience: PositiveInt | None = Field(
        description="Validations in a row without improvement before training stops with the best weights; null: never."
    )
    storage: StorageDtype = Field(description="Precision of the saved weights: fp32 or fp16.")
