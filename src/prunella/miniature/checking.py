"""Hold the miniature against its gates: reconstructions, what it draws, and that it does not draw from memory."""

from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from tqdm import tqdm

from prunella.errors import UserError
from prunella.evaluation.frechet import measure_frechet
from prunella.evaluation.latent_features import pool_latents
from prunella.evaluation.metrics.composition import measure_composition
from prunella.latents.encoders import encode_images, reconstruct_images
from prunella.miniature.recipe import MiniatureRecipe
from prunella.models.pipeline import load_pipeline
from prunella.reporting.image_grid import render_grid
from prunella.sampling.generate import generate
from prunella.scenes.generator import Scene, Vocabulary, render_sample, render_scene
from prunella.scenes.judge import CLAIMS, detect_objects, parse_scene_caption

CHECK_SEED = 20_000_003  # of scenes that no training has seen
SceneSamples = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class SamplingSettings:
    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    batch_size: int = 50


def check_miniature(
    pipeline_dir: Path,
    vocabulary: Vocabulary,
    recipe: MiniatureRecipe,
    out_dir: Path,
    num_images: int,
    sampling: SamplingSettings,
) -> dict:
    """Figures by gate; grids into `out`. `pictures` is how many each share is measured on.

    Raises UserError when the folder's pictures and the vocabulary's are not of one size.
    """
    pipeline = load_pipeline(pipeline_dir)
    pipeline.set_progress_bar_config(disable=True)
    image_size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    if image_size != vocabulary.picture:
        raise UserError(
            f"{pipeline_dir} draws {image_size} pixels to a side, the scenes have {vocabulary.picture}: not of one kind"
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    real_scenes = _render_check_scenes(vocabulary, num_images)
    metrics = {
        "reconstructions": measure_reconstructions(pipeline.vae, real_scenes, vocabulary),
        "chance": measure_chance_level(real_scenes, vocabulary),
    }
    scene_sets = {
        "one object": _render_check_scenes(vocabulary, num_images, num_objects=1),
        "two objects": _render_check_scenes(vocabulary, num_images, num_objects=2),
        "unseen combinations": _render_check_scenes(vocabulary, num_images, unseen=True),
    }
    images_by_row: dict[str, list[np.ndarray]] = {}
    for name, scenes in scene_sets.items():
        captions = [caption for caption, _ in scenes]
        images = _generate_scene_images(pipeline, captions, sampling, name)
        metrics[name] = measure_composition(images, captions, vocabulary) | measure_frechet_distances(
            pipeline.vae, scenes, images
        )
        images_by_row |= {name: images[:12], f"{name}, rendered": [image for _, image in scenes[:12]]}
    render_grid(images_by_row, 2).save(out_dir / "drawn.png")
    metrics["variety"] = measure_variety(pipeline, vocabulary, sampling, out_dir)
    metrics["memory"] = measure_memorization(pipeline, vocabulary, recipe, sampling, out_dir)
    return metrics


def _render_check_scenes(
    vocabulary: Vocabulary, num_scenes: int, num_objects: int | None = None, unseen: bool = False
) -> SceneSamples:
    """The first n scenes of the check's series, of `things` objects where that is given."""
    series = (render_sample(vocabulary, CHECK_SEED, i, unseen) for i in count())
    matching_samples = (
        sample for sample in series if num_objects in (None, len(_parse_scene_caption(sample[0], vocabulary).objects))
    )
    return list(islice(matching_samples, num_scenes))


def _parse_scene_caption(caption: str, vocabulary: Vocabulary) -> Scene:
    scene = parse_scene_caption(caption, vocabulary)
    assert scene is not None  # the caption was made of the vocabulary
    return scene


def _generate_scene_images(
    pipeline: DiffusionPipeline, captions: list[str], sampling: SamplingSettings, title: str
) -> list[np.ndarray]:
    images = generate(
        pipeline,
        captions,
        steps=sampling.num_inference_steps,
        guidance=sampling.guidance_scale,
        seed=CHECK_SEED,
        batch_size=sampling.batch_size,
    )
    return list(tqdm(images, title, len(captions), unit="picture"))


def measure_reconstructions(vae: AutoencoderKL, scenes: SceneSamples, vocabulary: Vocabulary) -> dict:
    """Gate 1: the judge on pictures that went through the VAE and back, and their peak signal-to-noise ratio in dB."""
    restored_images = list(reconstruct_images(vae, np.stack([image for _, image in scenes])))
    errors = [np.square(a.astype(float) - b).mean() for a, (_, b) in zip(restored_images, scenes, strict=True)]
    psnr = 10 * np.log10(255**2 / np.mean(errors))
    return {"psnr_db": round(float(psnr), 2)} | measure_composition(
        restored_images, [caption for caption, _ in scenes], vocabulary
    )


def _encode_latent_means(vae: AutoencoderKL, images: list[np.ndarray]) -> torch.Tensor:
    return encode_images(vae, np.stack(images))[0]


def measure_chance_level(scenes: SceneSamples, vocabulary: Vocabulary) -> dict:
    """The judge's verdict on rendered pictures under each other's captions."""
    images = [image for _, image in scenes]
    return measure_composition(images, [caption for caption, _ in scenes[1:] + scenes[:1]], vocabulary)


def measure_frechet_distances(vae: AutoencoderKL, scenes: SceneSamples, images: list[np.ndarray]) -> dict:
    """Fréchet distance of drawn from rendered pictures, beside that of the rendered pictures' halves."""
    rendered_features = pool_latents(_encode_latent_means(vae, [image for _, image in scenes]))
    half_size = len(rendered_features) // 2
    generated_features = pool_latents(_encode_latent_means(vae, images))
    return {
        "frechet": round(measure_frechet(generated_features[:half_size], rendered_features[half_size:]).value, 4),
        "frechet_floor": round(measure_frechet(rendered_features[:half_size], rendered_features[half_size:]).value, 4),
    }


def measure_variety(
    pipeline: DiffusionPipeline,
    vocabulary: Vocabulary,
    sampling: SamplingSettings,
    out_dir: Path,
    num_captions: int = 6,
    images_per_caption: int = 10,
) -> dict:
    """Gate 3: how much place and radius (pixels) of the largest thing vary between pictures of one caption.

    Medians over captions of the standard deviation over pictures, drawn and (the measure) rendered ones.
    """
    unique_captions = [caption for caption, _ in _render_check_scenes(vocabulary, num_captions, num_objects=1)]
    repeated_captions = [caption for caption in unique_captions for _ in range(images_per_caption)]
    rng = np.random.default_rng(CHECK_SEED)
    images_by_source = {
        "drawn": _generate_scene_images(pipeline, repeated_captions, sampling, "variety"),
        "rendered": [
            render_scene(_parse_scene_caption(caption, vocabulary), vocabulary, rng) for caption in repeated_captions
        ],
    }
    groups_by_source = {
        name: [images[i : i + images_per_caption] for i in range(0, len(repeated_captions), images_per_caption)]
        for name, images in images_by_source.items()
    }
    render_grid(dict(zip(map(_shorten_caption, unique_captions), groups_by_source["drawn"], strict=True)), 2).save(
        out_dir / "variety.png"
    )
    return {name: _measure_spread(groups, vocabulary) for name, groups in groups_by_source.items()}


def _measure_spread(groups: list[list[np.ndarray]], vocabulary: Vocabulary) -> dict:
    spreads = []
    for group in groups:
        largest_objects = [
            objects[0] for _, objects in (detect_objects(image, vocabulary) for image in group) if objects
        ]
        if len(largest_objects) > 1:
            spreads.append(
                np.std(
                    [
                        (detected_object.x, detected_object.y, detected_object.radius)
                        for detected_object in largest_objects
                    ],
                    axis=0,
                )
            )
    names = ("x_px", "y_px", "radius_px")
    if not spreads:  # nothing was drawn twice
        return dict.fromkeys(names)
    return {name: round(float(value), 2) for name, value in zip(names, np.median(spreads, axis=0), strict=True)}


def _shorten_caption(caption: str) -> str:
    return caption.replace("a picture of ", "").replace(" background", "").replace(" on a ", ", ")


def measure_memorization(
    pipeline: DiffusionPipeline,
    vocabulary: Vocabulary,
    recipe: MiniatureRecipe,
    sampling: SamplingSettings,
    out_dir: Path,
    num_samples: int = 20,
) -> dict:
    """Gate 3: the nearest training picture (root mean squared difference, 0..255) of drawn and of unseen real pictures.

    A model that draws from memory is much nearer to its training pictures than unseen real pictures are.
    """
    training_images = np.stack(
        [render_sample(vocabulary, recipe.seed, i)[1] for i in tqdm(range(recipe.pictures), "training scenes")]
    )
    scenes = _render_check_scenes(vocabulary, num_samples)
    images = _generate_scene_images(pipeline, [caption for caption, _ in scenes], sampling, "samples")
    generated_neighbors, real_neighbors = (
        _find_nearest_images(images, training_images),
        _find_nearest_images([image for _, image in scenes], training_images),
    )
    rows = {"drawn": images, "nearest in training": [training_images[i] for i, _ in generated_neighbors]}
    render_grid(rows, 1).save(out_dir / "nearest.png")
    return {
        "drawn_to_training": round(float(np.median([d for _, d in generated_neighbors])), 2),
        "unseen_to_training": round(float(np.median([d for _, d in real_neighbors])), 2),
    }


def _find_nearest_images(images: list[np.ndarray], training_images: np.ndarray) -> list[tuple[int, float]]:
    """Number and root mean squared difference of each picture's nearest one in `training` (NHWC uint8)."""
    queries = np.stack(images).reshape(len(images), -1).astype(np.float32)
    best = np.full(len(images), np.inf), np.zeros(len(images), int)
    for start in range(0, len(training_images), 1000):
        chunk = training_images[start : start + 1000].reshape(-1, queries.shape[1]).astype(np.float32)
        squares = (queries**2).sum(1)[:, None] - 2 * queries @ chunk.T + (chunk**2).sum(1)
        chunk_indices = squares.argmin(1)
        values = squares[np.arange(len(queries)), chunk_indices]
        is_better = values < best[0]
        best[0][is_better], best[1][is_better] = values[is_better], chunk_indices[is_better] + start
    return [(int(i), float(np.sqrt(max(d, 0) / queries.shape[1]))) for d, i in zip(*best, strict=True)]


def format_gate_table(metrics: dict) -> str:
    """The figures as Markdown: the judge's shares by set of pictures, then the rest."""
    judged_sets = {name: values for name, values in metrics.items() if "composition" in values}
    head = ["pictures", "all claims", *CLAIMS, "Fréchet (floor)"]
    lines = [head, ["---"] * len(head)]
    for name, values in judged_sets.items():
        overall = values["composition"]
        cells = [values["composition_by"].get(claim) for claim in CLAIMS]
        frechet_text = f"{values['frechet']:.3f} ({values['frechet_floor']:.3f})" if "frechet" in values else "–"
        claim_texts = [f"{100 * estimate['value']:.1f} %" if estimate else "–" for estimate in cells]
        lines.append(
            [
                name,
                "{value:.1%} ({low:.1%}–{high:.1%})".format(**overall).replace("%", " %"),
                *claim_texts,
                frechet_text,
            ]
        )
    notes = [
        f"Reconstructions: {metrics['reconstructions']['psnr_db']} dB.",
        "Spread over pictures of one caption: "
        + "; ".join(f"{name} {values}" for name, values in metrics["variety"].items()),
        "Nearest training picture, RMS of 255: drawn {drawn_to_training}, unseen {unseen_to_training}.".format(
            **metrics["memory"]
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n\n" + "\n".join(notes)
