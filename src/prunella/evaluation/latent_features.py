"""Features of pictures in a VAE's latents: the means of latents over a grid of cells, scaled.

They say what colour is where, coarsely, and how much outline. No learned classifier is involved, so values compare
only with values in the same VAE's space.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from prunella.evaluation.metrics.base import Images, MetricContext
from prunella.latents.encoders import encode_images

GRID_CELLS = 4  # to a side: 4 × 4 cells × 4 channels = 64 features


def pool_latents(latents: Tensor) -> np.ndarray:
    """NF features, float64, of NCHW latents."""
    return F.adaptive_avg_pool2d(latents.float(), GRID_CELLS).flatten(1).double().cpu().numpy()


class LatentFeatureSpace:
    """A space to compare pictures in: the teacher's VAE's. Real ones are the held-out ones that are not drawn."""

    def __init__(self, context: MetricContext):
        self.context = context
        self.vae = AutoencoderKL.from_pretrained(context.teacher_dir, subfolder="vae", torch_dtype=torch.float32)
        self.vae = self.vae.to(context.device).eval()
        self.vae.enable_slicing()  # memory is that of one picture, whatever the batch
        prompt_indices = set(context.heldout_indices.tolist())
        other_indices = np.array([index for index in range(len(context.heldout)) if index not in prompt_indices], int)
        self.real_of_prompts, self.real = (
            self._read_features(context.heldout_indices),
            self._read_features(other_indices),
        )
        self.last_batch: tuple[Images, np.ndarray] | None = None

    def __call__(self, images: Images) -> np.ndarray:
        """NF features of pictures (HWC uint8) of one size; a batch that two metrics ask for is encoded once."""
        if self.last_batch is None or self.last_batch[0] is not images:
            mean, _ = encode_images(self.vae, np.stack(images), batch_size=self.context.batch_size)
            self.last_batch = images, pool_latents(mean * self.context.heldout.scaling_factor)
        return self.last_batch[1]

    def _read_features(self, indices: np.ndarray) -> np.ndarray:
        """NF features of held-out pairs, from their latents."""
        heldout, size, feature_batches = self.context.heldout, self.context.batch_size, [np.zeros((0, 0))]
        for group in heldout.by_size(indices):
            for start in range(0, len(group), size):
                rows = heldout.get_batch(group[start : start + size])
                feature_batches.append(pool_latents(rows["mean"] * heldout.scaling_factor))
        return np.concatenate(feature_batches[1:] or feature_batches)


def get_latent_features(context: MetricContext) -> LatentFeatureSpace:
    """The features that all metrics of the subject share."""
    return context.get_shared("latent features", lambda: LatentFeatureSpace(context))
