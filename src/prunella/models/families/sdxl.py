"""Stable Diffusion XL (arXiv 2307.01952): two text encoders, and the pooled text and the picture's size as well."""

from collections.abc import Mapping
from typing import Any

from prunella.models.families.base import CROSS_DOWN, PLAIN_DOWN, Family

NUM_SIZES = (
    6  # numbers of the size conditioning: original height and width, crop's top and left, target height and width
)


class StableDiffusionXL(Family):
    """A batch holds "pooled" (NP) and "sizes" (N6) as well."""

    def example_shapes(
        self, config: Mapping[str, Any], latent_size: tuple[int, int], num_tokens: int
    ) -> dict[str, tuple[int, ...]]:
        """Like `Family.example`, with "pooled" (P) and "sizes" (6)."""
        # P is what the UNet's added embedding takes beside the embedded sizes.
        pooled_width = config["projection_class_embeddings_input_dim"] - NUM_SIZES * config["addition_time_embed_dim"]
        return super().example_shapes(config, latent_size, num_tokens) | {
            "pooled": (pooled_width,),
            "sizes": (NUM_SIZES,),
        }

    def predict_with_unet(self, model: Any, noisy_latents: Any, timesteps: Any, batch: Mapping[str, Any]) -> Any:
        """Like `Family.predict`, given the batch's "pooled" (NP) and "sizes" (N6) too."""
        added_cond_kwargs = {"text_embeds": batch["pooled"], "time_ids": batch["sizes"]}
        return model(noisy_latents, timesteps, batch["states"], added_cond_kwargs=added_cond_kwargs).sample


SDXL = StableDiffusionXL(
    title="Stable Diffusion XL",
    pipeline_class="StableDiffusionXLPipeline",
    text_encoders=("text_encoder", "text_encoder_2"),
    addition_embed_type="text_time",
    down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
    transformer_layers=(0, 2, 10),
    mid_layers=10,
)
