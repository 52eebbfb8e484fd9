"""A teacher's encoders: pictures to raw latents, captions to text embeddings, as stock diffusers does both.

Raw pixels (HWC uint8) → raw latents (mean and std, what is stored) → final latents (sampled and scaled, what the
net sees). Letters: N pairs, L tokens, D text width.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from prunella.compute.precision import AUTOCAST_DTYPES, autocast, tf32_context
from prunella.errors import UserError
from prunella.latents.shards import LatentDataset, read_manifest
from prunella.models.fingerprint import vae_fingerprint
from prunella.models.pipeline import load_pipeline
from prunella.params import Precision

TOKENS = {"text_encoder": "tokens", "text_encoder_2": "tokens_2"}  # text encoders, and what each is given


@torch.no_grad()
def encode_images(
    vae: AutoencoderKL, images: np.ndarray, precision: Precision = "fp32", batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Mean and std (NCHW fp32, on the CPU) that `vae` gives of pictures (NHWC uint8), `batch_size` at a time."""
    parts = []
    for start in range(0, len(images), batch_size):
        chunk = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2)
        with tf32_context(precision), autocast(vae.device, precision):
            parts.append(vae.encode(chunk.to(vae.device).float() / 127.5 - 1).latent_dist)
    return torch.cat([part.mean.float().cpu() for part in parts]), torch.cat([part.std.float().cpu() for part in parts])


@torch.no_grad()
def reconstruct_images(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Pictures (NHWC uint8) as `vae` gives them back from the means of their latents, fp32."""
    parts = []
    for means in encode_images(vae, images)[0].split(64):
        decoded = vae.decode(means.to(vae.device, vae.dtype)).sample.float().clamp(-1, 1).permute(0, 2, 3, 1)
        parts.append(((decoded + 1) * 127.5).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


class Encoders:
    """VAE, tokenizers and text encoders of the pipeline folder `folder`, on `device`; the VAE computes in `precision`.

    SDXL's VAE overflows in fp16 unless a fixed one says `force_upcast: false`, so it computes in fp32 where fp16 is
    asked for. Those of SD 1.x and 2.x, which say nothing and hence true, do not.
    """

    def __init__(self, folder: Path, device: str, precision: Precision = "fp32"):
        from diffusers import StableDiffusionXLPipeline  # takes long to import, and a training needs no `Encoders`

        self.pipeline = load_pipeline(folder, device, unet=None)
        self.vae = self.pipeline.vae.eval()
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self.vae_scale_factor = self.pipeline.vae_scale_factor
        overflows = isinstance(self.pipeline, StableDiffusionXLPipeline) and self.vae.config.force_upcast
        self.precision = "fp32" if precision == "fp16" and overflows else precision
        self.device = torch.device(device)
        self.folder = folder

    @cached_property
    def latent_space(self) -> str:
        """See `prunella.models.fingerprint`."""
        return vae_fingerprint(self.folder)

    def encode_images(self, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (NCHW fp32, on the CPU) of pictures (NHWC uint8)."""
        return encode_images(self.vae, pictures, self.precision, batch_size=len(pictures))

    def encode_captions(self, captions: list[str]) -> dict[str, Tensor]:
        """ "text" (NLD) and, of an SDXL teacher, "pooled" (NP): fp32, on the CPU, as the stock pipeline makes them."""
        return self._encode_prompt(captions, guided=False)[0]

    def encode_empty(self) -> dict[str, Tensor]:
        """The same without N, for no caption: of "", or zeros where the stock pipeline guides away from zeros."""
        return {name: value[0] for name, value in self._encode_prompt(["a"], guided=True)[1].items()}

    def tokenize(self, captions: list[str]) -> tuple[dict[str, Tensor], int]:
        """ "tokens" (NL) and, of an SDXL teacher, "tokens_2": int32; and how many captions are longer than those."""
        tokens, longer = {}, np.zeros(len(captions), bool)
        for name in ("tokenizer", "tokenizer_2"):
            if (tokenizer := getattr(self.pipeline, name, None)) is not None:
                max_length = tokenizer.model_max_length
                whole = tokenizer(captions, verbose=False).input_ids
                longer |= np.array([len(ids) > max_length for ids in whole], bool)
                truncated = tokenizer(captions, padding="max_length", max_length=max_length, truncation=True)
                tokens[name.replace("tokenizer", "tokens")] = torch.tensor(truncated.input_ids, dtype=torch.int32)
        return tokens, int(longer.sum())

    @torch.no_grad()
    def _encode_prompt(self, captions: list[str], guided: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The embeddings of the captions, and what guidance leads away from (empty where not `guided`)."""
        outputs = self.pipeline.encode_prompt(
            prompt=captions, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=guided
        )
        # SD gives (text, text of nothing); SDXL has the pooled embeddings, in the same order, after them.
        kinds = {"text": outputs[:2], "pooled": outputs[2:]}
        conditional, unconditional = (
            {kind: pair[i].float().cpu() for kind, pair in kinds.items() if pair and pair[i] is not None}
            for i in (0, 1)
        )
        return conditional, unconditional


class TextEncoders:
    """The text encoders of a pipeline: tokens as `Encoders.tokens` makes them to what stock `encode_prompt` gives.

    They have the bits of the training's `precision`.
    """

    def __init__(self, folder: Path, device: str, precision: Precision = "fp32"):
        dtype = AUTOCAST_DTYPES.get(precision, torch.float32)
        self.pipeline = load_pipeline(folder, device, dtype=dtype, unet=None, vae=None)
        self.device = torch.device(device)
        # Of its own, so that it runs beside a training step and not after it.
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.no_grad()
    def __call__(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "text" (NLD) and, of SDXL, "pooled" (NP): fp32, on the CPU."""
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            encoders = {name: part for name in TOKENS if (part := getattr(self.pipeline, name, None)) is not None}
            embeddings = encode_tokens(encoders, {name: each.to(self.device) for name, each in tokens.items()})
            return {name: value.float().cpu() for name, value in embeddings.items()}


def encode_tokens(encoders: Mapping[str, Any], tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ "text" (NLD) and, of SDXL, "pooled" (NP) of tokens, on the encoders' device.

    `encoders` are those of a pipeline by their names there, "text_encoder" and "text_encoder_2".
    """
    if "tokens_2" not in tokens:
        encoder = encoders["text_encoder"]
        if getattr(encoder.config, "use_attention_mask", False):
            raise UserError(
                f"{type(encoder).__name__} with an attention mask: encode.text tokens cannot be used with it"
            )
        return {"text": encoder(tokens["tokens"].long(), attention_mask=None)[0]}
    # The last but one layer of both encoders side by side, and the second's projection (arXiv 2307.01952).
    outputs = [encoders[name](tokens[kind].long(), output_hidden_states=True) for name, kind in TOKENS.items()]
    return {"text": torch.cat([each.hidden_states[-2] for each in outputs], -1), "pooled": outputs[-1][0]}


def open_latents(
    folder: Path, pipeline: Path, device: str, precision: Precision = "fp32", trains_text_encoder: bool = False
) -> tuple[LatentDataset, LatentDataset]:
    """The splits "train" and "heldout", with the text encoders of `pipeline` where the folder holds tokens.

    With text encoders that learn, tokens are left as they are. Raises UserError where the folder then holds none.
    """
    text_kind = read_manifest(folder).get("text")
    if trains_text_encoder and text_kind != "tokens":
        raise UserError(
            f"{folder} holds text embeddings, and text encoders that learn (text_encoder: true) need tokens; "
            "encode.text: tokens stores those"
        )
    encode_text = (
        None
        if text_kind != "tokens"
        else _keep_tokens
        if trains_text_encoder
        else TextEncoders(pipeline, device, precision)
    )
    return LatentDataset(folder, "train", encode_text), LatentDataset(folder, "heldout", encode_text)


def _keep_tokens(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    return tokens
