"""What depends on a teacher's architecture, in one object per family; a new architecture is one new file beside this.

Needs no torch: tensors come and go without being looked at. Letters: N examples, C latent channels, H × W latent
pixels, L tokens, D text width, P width of the pooled text embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLAIN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
PLAIN_UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"


@dataclass(frozen=True)
class Family:
    """`layers`: transformer layers of each attention, by down stage; 0 where a stage has no attention."""

    title: str
    pipeline: str  # its class in diffusers
    encoders: tuple[str, ...]  # names of its text encoders in a pipeline folder, side by side in the embeddings
    embeds: str | None  # the UNet's `addition_embed_type`, which tells what it is called with
    down: tuple[str, ...]
    layers: tuple[int, ...]
    mid: int  # transformer layers of the mid block
    pairs: int = 2  # resnets in a down stage, each with its attention; an up stage has one more

    def layers_of(self, way: str, stage: int) -> int:
        """Transformer layers of each attention in a stage; up stages mirror the down stages."""
        return self.layers[stage] if way == "down" else self.layers[::-1][stage]

    def pairs_of(self, way: str) -> int:
        """Resnets of a stage, each with its attention where the stage has any; `way` is "down" or "up"."""
        return self.pairs + (way == "up")

    def example(self, config: Mapping[str, Any], size: tuple[int, int], tokens: int) -> dict[str, tuple[int, ...]]:
        """Shapes of one example, without N, by their names in a batch: "latents" (CHW), "states" (LD).

        `config` is the UNet's, teacher or student; `size` is H and W; `tokens` is L.
        """
        return {"latents": (config["in_channels"], *size), "states": (tokens, config["cross_attention_dim"])}

    def predict(self, model: Any, noisy: Any, timesteps: Any, batch: Mapping[str, Any]) -> Any:
        """The model's prediction (NCHW) of noisy latents (NCHW) at timesteps (N), given the batch's "states" (NLD)."""
        return model(noisy, timesteps, batch["states"]).sample
