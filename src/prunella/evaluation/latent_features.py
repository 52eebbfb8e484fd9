"""Features of pictures in a VAE's latents: the means of latents over a grid of cells, scaled.

They say what colour is where, coarsely, and how much outline. No learned classifier is involved, so values compare
only with values in the same VAE's space.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from prunella.evaluation.metrics.base import Images, Subject
from prunella.latents.encoders import raw_latents

CELLS = 4  # to a side: 4 × 4 cells × 4 channels = 64 features


def features(latents: Tensor) -> np.ndarray:
    """NF features, float64, of NCHW latents."""
    return F.adaptive_avg_pool2d(latents.float(), CELLS).flatten(1).double().cpu().numpy()


class LatentFeatures:
    """A space to compare pictures in: the teacher's VAE's. Real ones are the held-out ones that are not drawn."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.vae = AutoencoderKL.from_pretrained(subject.teacher, subfolder="vae", torch_dtype=torch.float32)
        self.vae = self.vae.to(subject.device).eval()
        self.vae.enable_slicing()  # memory is that of one picture, whatever the batch
        first = set(subject.drawn.tolist())
        others = np.array([pair for pair in range(len(subject.heldout)) if pair not in first], int)
        self.asked, self.real = self._stored(subject.drawn), self._stored(others)
        self.last: tuple[Images, np.ndarray] | None = None

    def __call__(self, images: Images) -> np.ndarray:
        """NF features of pictures (HWC uint8) of one size; a batch that two metrics ask for is encoded once."""
        if self.last is None or self.last[0] is not images:
            mean, _ = raw_latents(self.vae, np.stack(images), batch_size=self.subject.batch_size)
            self.last = images, features(mean * self.subject.heldout.scaling_factor)
        return self.last[1]

    def _stored(self, pairs: np.ndarray) -> np.ndarray:
        """NF features of held-out pairs, from their latents."""
        heldout, size, parts = self.subject.heldout, self.subject.batch_size, [np.zeros((0, 0))]
        for group in heldout.groups(pairs):
            for start in range(0, len(group), size):
                rows = heldout.take(group[start : start + size])
                parts.append(features(rows["mean"] * heldout.scaling_factor))
        return np.concatenate(parts[1:] or parts)


def latent_features(subject: Subject) -> LatentFeatures:
    """The features that all metrics of the subject share."""
    return subject.common("latent features", lambda: LatentFeatures(subject))
