"""Stable Diffusion XL (arXiv 2307.01952): two text encoders, and the pooled text and the picture's size as well."""

from collections.abc import Mapping
from typing import Any

from prunella.models.families.base import CROSS, PLAIN, Family

SIZES = 6  # numbers of the size conditioning: original height and width, crop's top and left, target height and width


class StableDiffusionXL(Family):
    """A batch holds "pooled" (NP) and "sizes" (N6) as well."""

    def example(self, config: Mapping[str, Any], size: tuple[int, int], tokens: int) -> dict[str, tuple[int, ...]]:
        """As `Family.example`, with "pooled" (P) and "sizes" (6)."""
        # P is what the UNet's added embedding takes beside the embedded sizes.
        pooled = config["projection_class_embeddings_input_dim"] - SIZES * config["addition_time_embed_dim"]
        return super().example(config, size, tokens) | {"pooled": (pooled,), "sizes": (SIZES,)}

    def predict(self, model: Any, noisy: Any, timesteps: Any, batch: Mapping[str, Any]) -> Any:
        """As `Family.predict`, given the batch's "pooled" (NP) and "sizes" (N6) too."""
        added = {"text_embeds": batch["pooled"], "time_ids": batch["sizes"]}
        return model(noisy, timesteps, batch["states"], added_cond_kwargs=added).sample


SDXL = StableDiffusionXL(
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    encoders=("text_encoder", "text_encoder_2"),
    embeds="text_time",
    down=(PLAIN, CROSS, CROSS),
    layers=(0, 2, 10),
    mid=10,
)
