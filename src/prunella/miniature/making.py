"""Make the miniature: render scenes, train the VAE, train UNet and text encoder, assemble a pipeline folder.

Each part resumes from `work`; the finished folder is written beside and moved into place at the end.
"""

import json
import platform
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from prunella.miniature import autoencoder, denoiser, tokenizer
from prunella.miniature.recipe import Recipe
from prunella.samples.scenes import Vocabulary, captioned
from prunella.teachers import stored
from prunella.training.loop import averaged, ema_weights, train


def make(recipe: Recipe, vocabulary: Vocabulary, out: Path, work: Path, device: str, start: Path | None = None) -> None:
    """Train the miniature into `out`; `start` is a pipeline folder whose weights it continues from."""
    began, curves = time.time(), {}
    captions, pictures = _scenes(recipe, vocabulary)
    torch.manual_seed(recipe.seed)
    vae = AutoencoderKL.from_pretrained(start / "vae") if start else autoencoder.build(recipe.autoencoder)
    vae.to(device)
    if not start:
        curves["autoencoder"] = _train_autoencoder(vae, pictures, recipe, work / "autoencoder")
    mean, std = encode(vae, pictures)
    scale = vae.config.scaling_factor if start else float(1 / (mean + std * torch.randn_like(mean)).std())
    vae.register_to_config(scaling_factor=scale)
    words = tokenizer.build(vocabulary, recipe.denoiser.text["max_position_embeddings"])
    torch.manual_seed(recipe.seed)
    pair = denoiser.Pair(recipe.denoiser, words)
    if start:
        _copy_weights(pair, start)
    pair.to(device)

    def preview() -> None:
        save(work / "preview", vae, pair, words, recipe)

    latents = mean, std, scale
    curves["denoiser"] = _train_denoiser(pair, words, captions, latents, recipe, work / "denoiser", preview)
    half = work / "folder"
    save(half, vae, pair, words, recipe)
    made = {
        "seconds": round(time.time() - began),
        "hardware": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": torch.__version__,
        "recipe": recipe.model_dump(),
        "curves": curves,
    }
    (half / "training.json").write_text(json.dumps(made, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(half, out)


def _scenes(recipe: Recipe, vocabulary: Vocabulary) -> tuple[list[str], Tensor]:
    drawn = [captioned(vocabulary, recipe.seed, i) for i in tqdm(range(recipe.pictures), "scenes", unit="scene")]
    return [caption for caption, _ in drawn], torch.from_numpy(np.stack([p for _, p in drawn])).permute(0, 3, 1, 2)


def _train_autoencoder(vae, pictures: Tensor, recipe: Recipe, folder: Path) -> list:
    part = recipe.autoencoder
    ema = averaged(vae, part.training)
    loss = autoencoder.Reconstruction(part.kl_weight)
    batches = autoencoder.batches(pictures, part)
    curve = [
        [done, terms]
        for done, terms in train(vae, loss, batches, part.training, folder=folder, ema=ema, title="autoencoder")
        if done % 50 == 0
    ]
    if ema:
        ema.copy_to(vae.parameters())
    return curve


@torch.no_grad()
def encode(vae, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Raw latents' mean and std (NCHW each, on the CPU) of NCHW uint8 pictures."""
    vae.eval()
    parts = [vae.encode(chunk.to(vae.device).float() / 127.5 - 1).latent_dist for chunk in pictures.split(64)]
    return torch.cat([part.mean.cpu() for part in parts]), torch.cat([part.std.cpu() for part in parts])


def _train_denoiser(pair, words, captions, latents, recipe: Recipe, folder: Path, preview) -> list:
    part = recipe.denoiser
    scheduler = DDPMScheduler(**part.scheduler)
    tokens = words([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    batches = denoiser.batches(*latents, tokens[:-1], tokens[-1], part, scheduler.config.num_train_timesteps)
    ema = averaged(pair, part.training)
    curve = []
    loss = denoiser.Denoising(scheduler)
    for done, terms in train(pair, loss, batches, part.training, folder=folder, ema=ema, title="denoiser"):
        curve.append(terms["loss"])
        if done % 250 == 0:
            with ema_weights(pair, ema):
                preview()
    if ema:
        ema.copy_to(pair.parameters())
    return [[i + 50, float(np.mean(curve[i : i + 50]))] for i in range(0, len(curve) - 49, 50)]


def _copy_weights(pair, start: Path) -> None:
    old = StableDiffusionPipeline.from_pretrained(start)
    pair.unet.load_state_dict(old.unet.state_dict())
    pair.text.load_state_dict(old.text_encoder.state_dict())


def save(folder: Path, vae, pair, words, recipe: Recipe) -> None:
    """A stock pipeline folder: UNet and VAE in fp16, the text encoder in fp32."""
    shutil.rmtree(folder, ignore_errors=True)
    scheduler = DPMSolverMultistepScheduler(**recipe.denoiser.scheduler)
    parts = {
        "vae": stored(vae, "fp16"),
        "unet": stored(pair.unet, "fp16"),
        "text_encoder": pair.text,
        "tokenizer": words,
        "scheduler": scheduler,
    }
    StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
