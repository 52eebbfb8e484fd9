"""A teacher's encoders: pictures to raw latents, captions to text embeddings, as stock diffusers does both.

Raw pixels (HWC uint8) → raw latents (mean and std, what is stored) → final latents (sampled and scaled, what the
net sees). Letters: N pairs, L tokens, D text width.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from prunella.params import Precision
from prunella.teachers import load_pipeline
from prunella.training.precision import autocast, rounding


@torch.no_grad()
def raw_latents(
    vae, pictures: np.ndarray, precision: Precision = "fp32", batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Mean and std (NCHW fp32, on the CPU) that `vae` gives of pictures (NHWC uint8), `batch_size` at a time."""
    parts = []
    for start in range(0, len(pictures), batch_size):
        chunk = torch.from_numpy(pictures[start : start + batch_size]).permute(0, 3, 1, 2)
        with rounding(precision), autocast(vae.device, precision):
            parts.append(vae.encode(chunk.to(vae.device).float() / 127.5 - 1).latent_dist)
    return torch.cat([part.mean.float().cpu() for part in parts]), torch.cat([part.std.float().cpu() for part in parts])


class Encoders:
    """VAE, tokenizers and text encoders of the pipeline folder `folder`, on `device`; the VAE computes in `precision`.

    SDXL's VAE overflows in fp16 unless a fixed one says `force_upcast: false`, so it computes in fp32 where fp16 is
    asked for. Those of SD 1.x and 2.x, which say nothing and hence true, do not.
    """

    def __init__(self, folder: Path, device: str, precision: Precision = "fp32"):
        self.pipeline = load_pipeline(folder, device, unet=None)
        self.vae = self.pipeline.vae.eval()
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self.factor = self.pipeline.vae_scale_factor
        overflows = isinstance(self.pipeline, StableDiffusionXLPipeline) and self.vae.config.force_upcast
        self.precision = "fp32" if precision == "fp16" and overflows else precision
        self.device = torch.device(device)

    def latents(self, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (NCHW fp32, on the CPU) of pictures (NHWC uint8)."""
        return raw_latents(self.vae, pictures, self.precision, batch_size=len(pictures))

    def text(self, captions: list[str]) -> dict[str, Tensor]:
        """ "text" (NLD) and, of an SDXL teacher, "pooled" (NP): fp32, on the CPU, as the stock pipeline makes them."""
        return self._encoded(captions, guided=False)[0]

    def empty(self) -> dict[str, Tensor]:
        """The same without N, for no caption: of "", or zeros where the stock pipeline guides away from zeros."""
        return {name: value[0] for name, value in self._encoded(["a"], guided=True)[1].items()}

    def cut(self, captions: list[str]) -> int:
        """How many captions are longer than a tokenizer takes."""
        tokenizers = [getattr(self.pipeline, name, None) for name in ("tokenizer", "tokenizer_2")]
        lengths = [(t(captions, verbose=False).input_ids, t.model_max_length) for t in tokenizers if t is not None]
        return sum(any(len(ids[i]) > longest for ids, longest in lengths) for i in range(len(captions)))

    @torch.no_grad()
    def _encoded(self, captions: list[str], guided: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the captions are encoded to, and what guidance leads away from (empty where not `guided`)."""
        made = self.pipeline.encode_prompt(
            prompt=captions, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=guided
        )
        # SD gives (text, text of nothing); SDXL has the pooled embeddings, in the same order, after them.
        kinds = {"text": made[:2], "pooled": made[2:]}
        given, nothing = (
            {kind: pair[i].float().cpu() for kind, pair in kinds.items() if pair and pair[i] is not None}
            for i in (0, 1)
        )
        return given, nothing
