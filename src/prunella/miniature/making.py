"""Make the miniature: render scenes, train VAE, text encoder and UNet one after the other, assemble a pipeline folder.

Each part resumes from `work`; the finished folder is written beside and moved into place at the end.
"""

import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from prunella.latents.encoders import raw_latents
from prunella.miniature import autoencoder, denoiser, naming
from prunella.miniature.recipe import Part, Recipe
from prunella.models.pipeline import to_storage_dtype
from prunella.scenes import tokenizer
from prunella.scenes.generator import Vocabulary, render_sample
from prunella.training import checkpoint
from prunella.training.loop import averaged, ema_weights, train
from prunella.training.metrics_log import MetricsLog
from prunella.training.trainable import Learned

PREVIEW_EVERY = 250  # steps


def make(recipe: Recipe, vocabulary: Vocabulary, out: Path, work: Path, device: str, start: Path | None = None) -> None:
    """Train the miniature into `out`; `start` is a pipeline folder whose weights it continues from."""
    parts = {}
    captions, pictures = _scenes(recipe, vocabulary)
    torch.manual_seed(recipe.seed)
    vae = AutoencoderKL.from_pretrained(start / "vae") if start else autoencoder.build(recipe.autoencoder)
    vae.to(device)
    if not start:
        parts["autoencoder"] = _train_autoencoder(vae, pictures, recipe, work / "autoencoder")
        parts["decoder"] = _polish_decoder(vae, pictures, recipe, work / "decoder")
    mean, std = raw_latents(vae.eval(), pictures.permute(0, 2, 3, 1).numpy())
    scale = vae.config.scaling_factor if start else float((mean.var() + std.square().mean()).rsqrt())
    vae.register_to_config(scaling_factor=scale)
    words = tokenizer.build(vocabulary, recipe.denoiser.text["max_position_embeddings"])
    torch.manual_seed(recipe.seed)
    pair = denoiser.Pair(recipe.denoiser, words)
    pair.to(device)
    if start:
        _copy_weights(pair, start)
    else:
        parts["naming"] = _teach_naming(pair.text, words, vocabulary, recipe, work / "naming")

    def preview() -> None:
        save(work / "preview", vae, pair, words, recipe)

    latents = mean, std, scale
    parts["denoiser"] = _train_denoiser(pair, words, captions, latents, recipe, work / "denoiser", preview)
    half = work / "folder"
    save(half, vae, pair, words, recipe)
    made = {
        "hardware": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": torch.__version__,
        "recipe": recipe.model_dump(),
        "parts": parts,
    }
    (half / "training.json").write_text(json.dumps(made, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(half, out)


def _scenes(recipe: Recipe, vocabulary: Vocabulary) -> tuple[list[str], Tensor]:
    drawn = [render_sample(vocabulary, recipe.seed, i) for i in tqdm(range(recipe.pictures), "scenes", unit="scene")]
    return [caption for caption, _ in drawn], torch.from_numpy(np.stack([p for _, p in drawn])).permute(0, 3, 1, 2)


def _train_autoencoder(vae: AutoencoderKL, pictures: Tensor, recipe: Recipe, folder: Path) -> dict:
    part = recipe.autoencoder
    batches = autoencoder.batches(pictures, part, part.training, whole_from=part.training.steps * 19 // 20)
    return _trained(vae, autoencoder.Reconstruction(part), batches, part.training, folder)


def _polish_decoder(vae: AutoencoderKL, pictures: Tensor, recipe: Recipe, folder: Path) -> dict:
    part = recipe.autoencoder
    batches = autoencoder.batches(pictures, part, part.polish, whole_from=0)
    with autoencoder.encoder_held(vae):
        return _trained(vae, autoencoder.Reconstruction(part), batches, part.polish, folder)


def _teach_naming(
    text: CLIPTextModel, words: CLIPTokenizer, vocabulary: Vocabulary, recipe: Recipe, folder: Path
) -> dict:
    settings = recipe.denoiser.naming
    namer = naming.Namer(text.requires_grad_(True), naming.fields(vocabulary)).to(text.device)
    batches = naming.batches(vocabulary, words, settings.batch_size, settings.seed)
    curve = _trained(namer, naming.Naming(words.eos_token_id), batches, settings, folder)
    text.requires_grad_(False)
    return curve


def _train_denoiser(
    pair: denoiser.Pair,
    words: CLIPTokenizer,
    captions: list[str],
    latents: tuple[Tensor, Tensor, float],
    recipe: Recipe,
    folder: Path,
    preview: Callable[[], None],
) -> dict:
    part = recipe.denoiser
    scheduler = DDPMScheduler(**part.scheduler)
    tokens = words([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    batches = denoiser.batches(
        *latents, tokens=tokens[:-1], empty=tokens[-1], recipe=part, last=scheduler.config.num_train_timesteps
    )
    return _trained(pair, denoiser.Denoising(scheduler), batches, part.training, folder, preview)


def _trained(
    model: nn.Module,
    loss: Callable[..., dict[str, Tensor]],
    batches: Callable[[int], dict[str, Tensor]],
    settings: Part,
    folder: Path,
    preview: Callable[[], None] | None = None,
) -> dict:
    """Train to the end, from where `folder` stands; the model then holds its average. Seconds and mean curves."""
    ema, log = averaged(model, settings), MetricsLog(folder / "metrics.jsonl")
    log.resume(checkpoint.newest(folder))
    began = time.perf_counter()
    cadence = settings.checkpoint_every
    steps = train(model, loss, batches, settings, folder=folder, checkpoint_every=cadence, ema=ema, title=folder.name)
    for done, known in steps:
        for step, terms in known:
            log.metrics(step, "train", {**terms, "seconds": (time.perf_counter() - began) / len(known)})
        began = time.perf_counter()
        if preview and done % PREVIEW_EVERY == 0:
            with ema_weights(model, ema):
                preview()
    if ema:
        ema.copy_to(Learned(model).parameters())
    rows = log.rows()
    seconds = round(sum(row["seconds"] for row in rows), 1)
    names = [name for name in rows[0] if name not in ("step", "split", "seconds")]
    chunks = [rows[i : i + 50] for i in range(0, len(rows), 50)]
    means = [[chunk[-1]["step"], *(round(float(np.mean([r[n] for r in chunk])), 5) for n in names)] for chunk in chunks]
    return {"steps": settings.steps, "seconds": seconds, "curve": {"columns": ["step", *names], "rows": means}}


def _copy_weights(pair: denoiser.Pair, start: Path) -> None:
    old = StableDiffusionPipeline.from_pretrained(start)
    pair.unet.load_state_dict(old.unet.state_dict())
    pair.text.load_state_dict(old.text_encoder.state_dict())


def save(folder: Path, vae: AutoencoderKL, pair: denoiser.Pair, words: CLIPTokenizer, recipe: Recipe) -> None:
    """A stock pipeline folder: UNet and VAE in fp16, the text encoder in fp32."""
    shutil.rmtree(folder, ignore_errors=True)
    scheduler = DPMSolverMultistepScheduler(**recipe.denoiser.scheduler)
    parts = {
        "vae": to_storage_dtype(vae, "fp16"),
        "unet": to_storage_dtype(pair.unet, "fp16"),
        "text_encoder": pair.text,
        "tokenizer": words,
        "scheduler": scheduler,
    }
    StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
