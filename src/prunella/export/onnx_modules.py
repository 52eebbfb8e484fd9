"""The networks of a pipeline as a runtime without Python is given them: plain tensors in and out, all of them float32.

Names of parts and inputs are those of diffusers' and Optimum's ONNX folders. Letters: N examples, C latent channels,
H × W latent pixels, L tokens, D text width, P width of the pooled text embedding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunella.models.families import architecture, predict

Size = tuple[int, int]  # height and width of latents
Axes = dict[int, str]  # those that may vary, by name
# Of a family's batch, by the names of diffusers.
NAMES = {"latents": "sample", "states": "encoder_hidden_states", "pooled": "text_embeds", "sizes": "time_ids"}
BATCH: Axes = {0: "batch"}
PICTURE: Axes = {0: "batch", 2: "height", 3: "width"}


class Part(NamedTuple):
    """A network: `inputs` by name with the axes that may vary; `example` makes them for N and a latent size."""

    name: str
    module: nn.Module
    inputs: dict[str, Axes]
    outputs: tuple[str, ...]
    example: Callable[[int, Size], dict[str, Tensor]]
    overflows: bool = False  # whether its numbers are too large for fp16


def parts(pipeline: Any) -> list[Part]:
    """Text encoders, UNet and VAE decoder of a stock SD or SDXL pipeline."""
    family = architecture(pipeline.unet.config)
    layers = -2 if len(family.encoders) > 1 else None  # SDXL takes the last but one (arXiv 2307.01952)
    encoders = [_encoder(name, getattr(pipeline, name), layers) for name in family.encoders]
    return [*encoders, _unet(pipeline), _decoder(pipeline.vae, upcast=len(encoders) > 1)]


def _encoder(name: str, encoder: Any, layer: int | None) -> Part:
    config = encoder.config

    def example(batch: int, _: Size) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(1)
        ids = torch.randint(0, config.vocab_size, (batch, config.max_position_embeddings), generator=random)
        ids[:, -1] = config.eos_token_id  # whose place the pooled text is taken from
        return {"input_ids": ids}

    outputs = ("hidden_states", "text_embeds") if hasattr(encoder, "text_projection") else ("hidden_states",)
    return Part(name, _Encoder(encoder, layer), {"input_ids": BATCH}, outputs, example)


def _unet(pipeline: Any) -> Part:
    unet = pipeline.unet
    tokens = pipeline.text_encoder.config.max_position_embeddings

    def example(batch: int, size: Size) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(0)
        shapes = architecture(unet.config).example(unet.config, size, tokens)
        made = {NAMES[name]: torch.randn(batch, *shape, generator=random) for name, shape in shapes.items()}
        return {"sample": made["sample"], "timestep": 7.0 * torch.arange(1, batch + 1)} | made

    inputs = {name: BATCH for name in example(1, (8, 8))} | {"sample": PICTURE}
    inputs["encoder_hidden_states"] = BATCH | {1: "tokens"}
    return Part("unet", _UNet(unet), inputs, ("out_sample",), example)


def _decoder(vae: Any, upcast: bool) -> Part:
    def example(batch: int, size: Size) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(2)
        return {"latent_sample": torch.randn(batch, vae.config.latent_channels, *size, generator=random)}

    overflows = upcast and bool(vae.config.force_upcast)  # as `prunella.latents.encoders.Encoders`
    return Part("vae_decoder", _Decoder(vae), {"latent_sample": PICTURE}, ("sample",), example, overflows)


class _Encoder(nn.Module):
    """Tokens (NL) → the states that the UNet is given (NLD) and, of an encoder that projects, the pooled text (NP)."""

    def __init__(self, encoder: Any, layer: int | None):
        super().__init__()
        self.encoder, self.layer = encoder, layer

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        told = self.encoder(input_ids, output_hidden_states=True)
        states = told.last_hidden_state if self.layer is None else told.hidden_states[self.layer]
        pooled = (told.text_embeds.float(),) if hasattr(told, "text_embeds") else ()
        return states.float(), *pooled


class _UNet(nn.Module):
    """Noisy latents (NCHW), timesteps (N), text (NLD), of SDXL pooled text (NP) and sizes (N6) → prediction (NCHW)."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        dtype = self.unet.dtype
        # The pooled text as it is: diffusers joins it to the sizes, which are float32, and ONNX joins one dtype only.
        batch = {"states": encoder_hidden_states.to(dtype), "pooled": text_embeds, "sizes": time_ids}
        return predict(self.unet, sample.to(dtype), timestep, batch).float()


class _Decoder(nn.Module):
    """Raw latents (NCHW; final ones divided by the scaling factor) → pixels (N3HW) from -1 to 1."""

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample.to(self.vae.dtype)).sample.float()
