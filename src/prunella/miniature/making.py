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

from prunella.latents.encoders import encode_images
from prunella.miniature import autoencoder, denoiser, naming
from prunella.miniature.recipe import ComponentTraining, MiniatureRecipe
from prunella.models.pipeline import to_storage_dtype
from prunella.scenes import tokenizer
from prunella.scenes.generator import Vocabulary, render_sample
from prunella.training import checkpoint
from prunella.training.loop import ema_weights, make_ema, train
from prunella.training.metrics_log import MetricsLog
from prunella.training.trainable import TrainableState

PREVIEW_EVERY = 250  # steps


def train_miniature(
    recipe: MiniatureRecipe,
    vocabulary: Vocabulary,
    out_dir: Path,
    work_dir: Path,
    device: str,
    start_dir: Path | None = None,
) -> None:
    """Train the miniature into `out`; `start` is a pipeline folder whose weights it continues from."""
    component_reports = {}
    captions, images = _render_training_scenes(recipe, vocabulary)
    torch.manual_seed(recipe.seed)
    vae = (
        AutoencoderKL.from_pretrained(start_dir / "vae")
        if start_dir
        else autoencoder.build_autoencoder(recipe.autoencoder)
    )
    vae.to(device)
    if not start_dir:
        component_reports["autoencoder"] = _train_autoencoder(vae, images, recipe, work_dir / "autoencoder")
        component_reports["decoder"] = _polish_decoder(vae, images, recipe, work_dir / "decoder")
    mean, std = encode_images(vae.eval(), images.permute(0, 2, 3, 1).numpy())
    scaling_factor = vae.config.scaling_factor if start_dir else float((mean.var() + std.square().mean()).rsqrt())
    vae.register_to_config(scaling_factor=scaling_factor)
    clip_tokenizer = tokenizer.build_tokenizer(vocabulary, recipe.denoiser.text["max_position_embeddings"])
    torch.manual_seed(recipe.seed)
    model = denoiser.UNetAndTextEncoder(recipe.denoiser, clip_tokenizer)
    model.to(device)
    if start_dir:
        _copy_weights(model, start_dir)
    else:
        component_reports["naming"] = _train_text_encoder(
            model.text, clip_tokenizer, vocabulary, recipe, work_dir / "naming"
        )

    def preview() -> None:
        save_miniature_pipeline(work_dir / "preview", vae, model, clip_tokenizer, recipe)

    latents = mean, std, scaling_factor
    component_reports["denoiser"] = _train_denoiser(
        model, clip_tokenizer, captions, latents, recipe, work_dir / "denoiser", preview
    )
    tmp_dir = work_dir / "folder"
    save_miniature_pipeline(tmp_dir, vae, model, clip_tokenizer, recipe)
    metadata = {
        "hardware": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": torch.__version__,
        "recipe": recipe.model_dump(),
        "parts": component_reports,
    }
    (tmp_dir / "training.json").write_text(json.dumps(metadata, indent=1))
    shutil.rmtree(out_dir, ignore_errors=True)
    shutil.move(tmp_dir, out_dir)


def _render_training_scenes(recipe: MiniatureRecipe, vocabulary: Vocabulary) -> tuple[list[str], Tensor]:
    samples = [render_sample(vocabulary, recipe.seed, i) for i in tqdm(range(recipe.pictures), "scenes", unit="scene")]
    return [caption for caption, _ in samples], torch.from_numpy(np.stack([image for _, image in samples])).permute(
        0, 3, 1, 2
    )


def _train_autoencoder(vae: AutoencoderKL, images: Tensor, recipe: MiniatureRecipe, work_dir: Path) -> dict:
    autoencoder_recipe = recipe.autoencoder
    batches = autoencoder.make_autoencoder_batches(
        images,
        autoencoder_recipe,
        autoencoder_recipe.training,
        full_images_from=autoencoder_recipe.training.steps * 19 // 20,
    )
    return _run_training(
        vae, autoencoder.ReconstructionLoss(autoencoder_recipe), batches, autoencoder_recipe.training, work_dir
    )


def _polish_decoder(vae: AutoencoderKL, images: Tensor, recipe: MiniatureRecipe, work_dir: Path) -> dict:
    autoencoder_recipe = recipe.autoencoder
    batches = autoencoder.make_autoencoder_batches(
        images, autoencoder_recipe, autoencoder_recipe.polish, full_images_from=0
    )
    with autoencoder.freeze_encoder(vae):
        return _run_training(
            vae, autoencoder.ReconstructionLoss(autoencoder_recipe), batches, autoencoder_recipe.polish, work_dir
        )


def _train_text_encoder(
    text_encoder: CLIPTextModel,
    clip_tokenizer: CLIPTokenizer,
    vocabulary: Vocabulary,
    recipe: MiniatureRecipe,
    work_dir: Path,
) -> dict:
    settings = recipe.denoiser.naming
    classifier = naming.ClaimClassifier(text_encoder.requires_grad_(True), naming.list_claim_fields(vocabulary)).to(
        text_encoder.device
    )
    batches = naming.make_naming_batches(vocabulary, clip_tokenizer, settings.batch_size, settings.seed)
    report = _run_training(
        classifier, naming.ClaimClassificationLoss(clip_tokenizer.eos_token_id), batches, settings, work_dir
    )
    text_encoder.requires_grad_(False)
    return report


def _train_denoiser(
    model: denoiser.UNetAndTextEncoder,
    clip_tokenizer: CLIPTokenizer,
    captions: list[str],
    latents: tuple[Tensor, Tensor, float],
    recipe: MiniatureRecipe,
    work_dir: Path,
    preview: Callable[[], None],
) -> dict:
    denoiser_recipe = recipe.denoiser
    scheduler = DDPMScheduler(**denoiser_recipe.scheduler)
    tokens = clip_tokenizer([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    batches = denoiser.make_denoiser_batches(
        *latents,
        tokens=tokens[:-1],
        empty_tokens=tokens[-1],
        recipe=denoiser_recipe,
        num_train_timesteps=scheduler.config.num_train_timesteps,
    )
    return _run_training(model, denoiser.DenoisingLoss(scheduler), batches, denoiser_recipe.training, work_dir, preview)


def _run_training(
    model: nn.Module,
    loss: Callable[..., dict[str, Tensor]],
    batches: Callable[[int], dict[str, Tensor]],
    settings: ComponentTraining,
    work_dir: Path,
    preview: Callable[[], None] | None = None,
) -> dict:
    """Train to the end, from where `folder` stands; the model then holds its average. Seconds and mean curves."""
    ema, metrics_log = make_ema(model, settings), MetricsLog(work_dir / "metrics.jsonl")
    metrics_log.resume(checkpoint.newest_step(work_dir))
    start_time = time.perf_counter()
    checkpoint_every = settings.checkpoint_every
    steps = train(
        model, loss, batches, settings, folder=work_dir, checkpoint_every=checkpoint_every, ema=ema, title=work_dir.name
    )
    for completed_steps, step_terms in steps:
        for step, terms in step_terms:
            metrics_log.log_metrics(
                step, "train", {**terms, "seconds": (time.perf_counter() - start_time) / len(step_terms)}
            )
        start_time = time.perf_counter()
        if preview and completed_steps % PREVIEW_EVERY == 0:
            with ema_weights(model, ema):
                preview()
    if ema:
        ema.copy_to(TrainableState(model).parameters())
    rows = metrics_log.rows()
    seconds = round(sum(row["seconds"] for row in rows), 1)
    names = [name for name in rows[0] if name not in ("step", "split", "seconds")]
    chunks = [rows[i : i + 50] for i in range(0, len(rows), 50)]
    chunk_means = [
        [chunk[-1]["step"], *(round(float(np.mean([r[n] for r in chunk])), 5) for n in names)] for chunk in chunks
    ]
    return {"steps": settings.steps, "seconds": seconds, "curve": {"columns": ["step", *names], "rows": chunk_means}}


def _copy_weights(model: denoiser.UNetAndTextEncoder, start_dir: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(start_dir)
    model.unet.load_state_dict(pipeline.unet.state_dict())
    model.text.load_state_dict(pipeline.text_encoder.state_dict())


def save_miniature_pipeline(
    out_dir: Path,
    vae: AutoencoderKL,
    model: denoiser.UNetAndTextEncoder,
    clip_tokenizer: CLIPTokenizer,
    recipe: MiniatureRecipe,
) -> None:
    """A stock pipeline folder: UNet and VAE in fp16, the text encoder in fp32."""
    shutil.rmtree(out_dir, ignore_errors=True)
    scheduler = DPMSolverMultistepScheduler(**recipe.denoiser.scheduler)
    components = {
        "vae": to_storage_dtype(vae, "fp16"),
        "unet": to_storage_dtype(model.unet, "fp16"),
        "text_encoder": model.text,
        "tokenizer": clip_tokenizer,
        "scheduler": scheduler,
    }
    StableDiffusionPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(out_dir)
