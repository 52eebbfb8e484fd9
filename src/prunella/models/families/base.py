"""Everything that depends on a teacher's architecture, in one object per family; a new architecture is one new file
beside this.

Needs no torch: tensors come and go without being looked at. Letters: N examples, C latent channels, H × W latent
pixels, L tokens, D text width, P width of the pooled text embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLAIN_DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
PLAIN_UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"


@dataclass(frozen=True)
class Family:
    """`transformer_layers`: transformer layers of each attention, by down stage; 0 where a stage has no attention."""

    title: str
    pipeline_class: str  # its class in diffusers
    text_encoders: tuple[str, ...]  # names of its text encoders in a pipeline folder, side by side in the embeddings
    addition_embed_type: str | None  # the UNet's `addition_embed_type`, which tells what it is called with
    down_block_types: tuple[str, ...]
    transformer_layers: tuple[int, ...]
    mid_layers: int  # transformer layers of the mid block
    layers_per_block: int = 2  # resnets in a down stage, each with its attention; an up stage has one more

    def transformer_layers_at(self, direction: str, stage: int) -> int:
        """Transformer layers of each attention in a stage; up stages mirror the down stages."""
        return self.transformer_layers[stage] if direction == "down" else self.transformer_layers[::-1][stage]

    def blocks_per_stage(self, direction: str) -> int:
        """Resnets of a stage, each with its attention where the stage has any; `direction` is "down" or "up"."""
        return self.layers_per_block + (direction == "up")

    def example_shapes(
        self, config: Mapping[str, Any], latent_size: tuple[int, int], num_tokens: int
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of one example, without N, by their names in a batch: "latents" (CHW), "states" (LD).

        `config` is the UNet's, teacher or student; `latent_size` is H and W; `num_tokens` is L.
        """
        return {"latents": (config["in_channels"], *latent_size), "states": (num_tokens, config["cross_attention_dim"])}

    def predict_with_unet(self, model: Any, noisy_latents: Any, timesteps: Any, batch: Mapping[str, Any]) -> Any:
        """The model's prediction (NCHW) of noisy latents (NCHW) at timesteps (N), given the batch's "states" (NLD)."""
        return model(noisy_latents, timesteps, batch["states"]).sample
