"""The miniature's UNet, trained to predict v (or the noise) from what the text encoder says of the caption."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from prunella.compute import seeds
from prunella.miniature.recipe import DenoiserConfig
from prunella.miniature.zero_init import zero_init
from prunella.training import objectives
from prunella.training.sampler import batch_positions, sample_indices


class UNetAndTextEncoder(nn.Module):
    """UNet and text encoder under one roof, for the loop's sake; the text encoder has learnt to name and stays so."""

    def __init__(self, recipe: DenoiserConfig, tokenizer: CLIPTokenizer):
        super().__init__()
        self.unet = UNet2DConditionModel(**recipe.unet)
        zero_init(self.unet, "conv2", "proj_out", "conv_out")
        token_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        self.text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **recipe.text, **token_ids)).requires_grad_(
            False
        )


class DenoisingLoss:
    """Mean squared error of the prediction, by batch: {"latents" NCHW, "noise", "timesteps" N, "tokens" NL}."""

    def __init__(self, scheduler: DDPMScheduler):
        self.scheduler = scheduler

    def __call__(self, model: UNetAndTextEncoder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy_latents = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        text_embeddings = model.text(batch["tokens"]).last_hidden_state
        prediction = model.unet(noisy_latents, batch["timesteps"], text_embeddings).sample
        target = objectives.make_objective(self.scheduler).target(batch["latents"], batch["noise"], batch["timesteps"])
        return {"loss": F.mse_loss(prediction, target)}


def make_denoiser_batches(
    mean: Tensor,
    std: Tensor,
    scaling_factor: float,
    tokens: Tensor,
    empty_tokens: Tensor,
    recipe: DenoiserConfig,
    num_train_timesteps: int,
) -> Callable[[int], dict[str, Tensor]]:
    """Batches by step from raw latents and tokens (NL); `empty` (L) stands in for dropped captions."""
    settings = recipe.training

    def make_batch(step: int) -> dict[str, Tensor]:
        generator = seeds.make_generator(settings.seed, step)
        indices = torch.from_numpy(sample_indices(batch_positions(step, settings.batch_size), len(mean), settings.seed))
        latents = objectives.sample_latents(mean[indices], std[indices], generator, scaling_factor)
        n = len(indices)
        dropped = torch.rand(n, generator=generator) < recipe.caption_dropout
        min_timesteps = torch.where(torch.rand(n, generator=generator) < recipe.noisier, num_train_timesteps // 2, 0)
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator),
            "timesteps": (
                min_timesteps + torch.rand(n, generator=generator) * (num_train_timesteps - min_timesteps)
            ).long(),
            "tokens": torch.where(dropped[:, None], empty_tokens, tokens[indices]),
        }

    return make_batch
