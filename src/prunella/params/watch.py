"""Section `watch`: checkpoints and sample images of a running training."""

from typing import Annotated

from pydantic import Field

from prunella.params.fields import ConfigSection, Pixels, PositiveInt


class Monitoring(ConfigSection):
    """Monitoring of a running training; nothing here changes what is learned."""

    checkpoint_every: PositiveInt = Field(description="Steps between checkpoints.")
    image_every: PositiveInt = Field(description="Steps between sample images.")
    prompts: PositiveInt | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        description="Number of held-out captions, or a list of prompts."
    )
    negative_prompt: str = Field(description="Negative prompt of classifier-free guidance.")
    num_inference_steps: PositiveInt = Field(description="Sampler steps of a sample image.")
    guidance_scale: Annotated[float, Field(ge=1)] = Field(description="Guidance scale of a sample image.")
    size: Pixels | None = Field(description="Side in pixels; null: the model's own.")
