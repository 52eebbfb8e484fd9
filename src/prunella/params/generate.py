"""Section `generate`: image sets that a model generates from prompts."""

from typing import Annotated

from pydantic import Field

from prunella.params.fields import ConfigSection, Pixels, PositiveInt, Precision, Seed, StorageDtype


class Generate(ConfigSection):
    """Pictures that a model makes of prompts: one set, an entry of the section `generate`."""

    prompts: Annotated[str, Field(min_length=1)] = Field(
        description="File of prompts, or data whose captions are the prompts."
    )
    samples: PositiveInt = Field(description="Maximum number of prompts, chosen by seed.")
    images_per_prompt: PositiveInt = Field(description="Images of each prompt, each from its own noise.")
    model: Annotated[str, Field(min_length=1)] = Field(description="models/teacher.json, or a pipeline folder.")
    id: str | None = Field(description="Hub model, owner/name. `model` is then ignored.")
    revision: Annotated[str, Field(min_length=1)] = Field(description="Its branch, tag or commit.")
    negative_prompt: str = Field(description="Negative prompt of classifier-free guidance.")
    guidance_scale: Annotated[float, Field(ge=1)] = Field(
        description="Scale of classifier-free guidance; 1 turns it off."
    )
    scheduler: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] | None = Field(
        description="Scheduler class of diffusers; null: the model's own."
    )
    num_inference_steps: PositiveInt = Field(description="Sampler steps.")
    sizes: Annotated[list[tuple[Pixels, Pixels]], Field(min_length=1)] = Field(
        description="[width, height] in pixels, taken in turn."
    )
    batch_size: PositiveInt = Field(description="Images at a time.")
    precision: Precision = Field(description="Precision of the computation: fp32, tf32, bf16 or fp16.")
    storage: StorageDtype = Field(description="Precision of the stored latents: fp32 or fp16.")
    seed: Seed = Field(description="Seed of prompts and noise.")
    store: Annotated[str, Field(min_length=1)] | None = Field(
        description="Folder or store of the tar files (s3://...); null: the set's own folder."
    )
