"""The networks of a pipeline as a runtime without Python is given them: plain tensors in and out, all of them float32.

Names of parts and inputs are those of diffusers' and Optimum's ONNX folders. Letters: N examples, C latent channels,
H × W latent pixels, L tokens, D text width, P width of the pooled text embedding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunella.models.families import family_of_unet, predict_with_unet

LatentSize = tuple[int, int]  # height and width of latents
Axes = dict[int, str]  # those that may vary, by name
# Of a family's batch, by the names of diffusers.
INPUT_NAMES = {"latents": "sample", "states": "encoder_hidden_states", "pooled": "text_embeds", "sizes": "time_ids"}
BATCH_AXES: Axes = {0: "batch"}
IMAGE_AXES: Axes = {0: "batch", 2: "height", 3: "width"}


class OnnxModule(NamedTuple):
    """A network: `inputs` by name with the axes that may vary; `example_inputs` makes them for N and a latent size."""

    name: str
    module: nn.Module
    inputs: dict[str, Axes]
    outputs: tuple[str, ...]
    example_inputs: Callable[[int, LatentSize], dict[str, Tensor]]
    overflows: bool = False  # whether its numbers are too large for fp16


def build_onnx_modules(pipeline: Any) -> list[OnnxModule]:
    """Text encoders, UNet and VAE decoder of a stock SD or SDXL pipeline."""
    family = family_of_unet(pipeline.unet.config)
    hidden_layer = -2 if len(family.text_encoders) > 1 else None  # SDXL takes the last but one (arXiv 2307.01952)
    encoders = [_text_encoder_module(name, getattr(pipeline, name), hidden_layer) for name in family.text_encoders]
    return [*encoders, _unet_module(pipeline), _vae_decoder_module(pipeline.vae, upcast=len(encoders) > 1)]


def _text_encoder_module(name: str, encoder: Any, hidden_layer: int | None) -> OnnxModule:
    config = encoder.config

    def example_inputs(batch_size: int, _: LatentSize) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(0, config.vocab_size, (batch_size, config.max_position_embeddings), generator=generator)
        ids[:, -1] = config.eos_token_id  # whose place the pooled text is taken from
        return {"input_ids": ids}

    outputs = ("hidden_states", "text_embeds") if hasattr(encoder, "text_projection") else ("hidden_states",)
    return OnnxModule(name, _Encoder(encoder, hidden_layer), {"input_ids": BATCH_AXES}, outputs, example_inputs)


def _unet_module(pipeline: Any) -> OnnxModule:
    unet = pipeline.unet
    num_tokens = pipeline.text_encoder.config.max_position_embeddings

    def example_inputs(batch_size: int, latent_size: LatentSize) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = family_of_unet(unet.config).example_shapes(unet.config, latent_size, num_tokens)
        batch_inputs = {
            INPUT_NAMES[name]: torch.randn(batch_size, *shape, generator=generator) for name, shape in shapes.items()
        }
        return {"sample": batch_inputs["sample"], "timestep": 7.0 * torch.arange(1, batch_size + 1)} | batch_inputs

    inputs = {name: BATCH_AXES for name in example_inputs(1, (8, 8))} | {"sample": IMAGE_AXES}
    inputs["encoder_hidden_states"] = BATCH_AXES | {1: "tokens"}
    return OnnxModule("unet", _UNet(unet), inputs, ("out_sample",), example_inputs)


def _vae_decoder_module(vae: Any, upcast: bool) -> OnnxModule:
    def example_inputs(batch_size: int, latent_size: LatentSize) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(2)
        return {"latent_sample": torch.randn(batch_size, vae.config.latent_channels, *latent_size, generator=generator)}

    overflows = upcast and bool(vae.config.force_upcast)  # as `prunella.latents.encoders.Encoders`
    return OnnxModule(
        "vae_decoder", _Decoder(vae), {"latent_sample": IMAGE_AXES}, ("sample",), example_inputs, overflows
    )


class _Encoder(nn.Module):
    """Tokens (NL) → the states that the UNet is given (NLD) and, of an encoder that projects, the pooled text (NP)."""

    def __init__(self, encoder: Any, layer: int | None):
        super().__init__()
        self.encoder, self.layer = encoder, layer

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        encoder_output = self.encoder(input_ids, output_hidden_states=True)
        states = encoder_output.last_hidden_state if self.layer is None else encoder_output.hidden_states[self.layer]
        pooled = (encoder_output.text_embeds.float(),) if hasattr(encoder_output, "text_embeds") else ()
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
        return predict_with_unet(self.unet, sample.to(dtype), timestep, batch).float()


class _Decoder(nn.Module):
    """Raw latents (NCHW; final ones divided by the scaling factor) → pixels (N3HW) from -1 to 1."""

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample.to(self.vae.dtype)).sample.float()
