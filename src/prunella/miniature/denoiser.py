"""The miniature's UNet, trained to predict v (or the noise) from what the text encoder says of the caption."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from prunella.compute import seeds
from prunella.miniature.recipe import Denoiser
from prunella.miniature.zero_init import zero_init
from prunella.training import objectives
from prunella.training.sampler import examples, line


class Pair(nn.Module):
    """UNet and text encoder under one roof, for the loop's sake; the text encoder has learnt to name and stays so."""

    def __init__(self, recipe: Denoiser, tokenizer: CLIPTokenizer):
        super().__init__()
        self.unet = UNet2DConditionModel(**recipe.unet)
        zero_init(self.unet, "conv2", "proj_out", "conv_out")
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        self.text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **recipe.text, **ids)).requires_grad_(False)


class Denoising:
    """Mean squared error of the prediction, by batch: {"latents" NCHW, "noise", "timesteps" N, "tokens" NL}."""

    def __init__(self, scheduler: DDPMScheduler):
        self.scheduler = scheduler

    def __call__(self, pair: Pair, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        states = pair.text(batch["tokens"]).last_hidden_state
        predicted = pair.unet(noisy, batch["timesteps"], states).sample
        wanted = objectives.objective(self.scheduler).target(batch["latents"], batch["noise"], batch["timesteps"])
        return {"loss": F.mse_loss(predicted, wanted)}


def batches(
    mean: Tensor, std: Tensor, scaling_factor: float, tokens: Tensor, empty: Tensor, recipe: Denoiser, last: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches by step from raw latents and tokens (NL); `empty` (L) stands in for dropped captions."""
    settings = recipe.training

    def batch(step: int) -> dict[str, Tensor]:
        source = seeds.make_generator(settings.seed, step)
        chosen = torch.from_numpy(examples(line(step, settings.batch_size), len(mean), settings.seed))
        latents = objectives.sampled(mean[chosen], std[chosen], source, scaling_factor)
        n = len(chosen)
        dropped = torch.rand(n, generator=source) < recipe.caption_dropout
        least = torch.where(torch.rand(n, generator=source) < recipe.noisier, last // 2, 0)
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=source),
            "timesteps": (least + torch.rand(n, generator=source) * (last - least)).long(),
            "tokens": torch.where(dropped[:, None], empty, tokens[chosen]),
        }

    return batch
