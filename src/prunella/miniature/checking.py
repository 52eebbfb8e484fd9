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
from prunella.latents.encoders import raw_latents, reconstructed
from prunella.miniature.recipe import Recipe
from prunella.models.pipeline import load_pipeline
from prunella.reporting.image_grid import render_grid
from prunella.sampling.generate import generate
from prunella.scenes.generator import Scene, Vocabulary, render_sample, render_scene
from prunella.scenes.judge import CLAIMS, detect_objects, parse_scene_caption

SEED = 20_000_003  # of scenes that no training has seen
Scenes = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Drawing:
    steps: int = 25
    guidance: float = 4.0
    batch_size: int = 50


def check(folder: Path, vocabulary: Vocabulary, recipe: Recipe, out: Path, pictures: int, drawing: Drawing) -> dict:
    """Figures by gate; grids into `out`. `pictures` is how many each share is measured on.

    Raises UserError when the folder's pictures and the vocabulary's are not of one size.
    """
    pipeline = load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    if side != vocabulary.picture:
        raise UserError(
            f"{folder} draws {side} pixels to a side, the scenes have {vocabulary.picture}: not of one kind"
        )
    out.mkdir(parents=True, exist_ok=True)
    real = _scenes(vocabulary, pictures)
    figures = {"reconstructions": reconstructions(pipeline.vae, real, vocabulary), "chance": chance(real, vocabulary)}
    sets = {
        "one object": _scenes(vocabulary, pictures, things=1),
        "two objects": _scenes(vocabulary, pictures, things=2),
        "unseen combinations": _scenes(vocabulary, pictures, unseen=True),
    }
    shown: dict[str, list[np.ndarray]] = {}
    for name, scenes in sets.items():
        captions = [caption for caption, _ in scenes]
        drawn = _drawn(pipeline, captions, drawing, name)
        figures[name] = measure_composition(drawn, captions, vocabulary) | distances(pipeline.vae, scenes, drawn)
        shown |= {name: drawn[:12], f"{name}, rendered": [picture for _, picture in scenes[:12]]}
    render_grid(shown, 2).save(out / "drawn.png")
    figures["variety"] = variety(pipeline, vocabulary, drawing, out)
    figures["memory"] = memory(pipeline, vocabulary, recipe, drawing, out)
    return figures


def _scenes(vocabulary: Vocabulary, n: int, things: int | None = None, unseen: bool = False) -> Scenes:
    """The first n scenes of the check's series, of `things` objects where that is given."""
    series = (render_sample(vocabulary, SEED, i, unseen) for i in count())
    wanted = (pair for pair in series if things in (None, len(_told(pair[0], vocabulary).objects)))
    return list(islice(wanted, n))


def _told(caption: str, vocabulary: Vocabulary) -> Scene:
    scene = parse_scene_caption(caption, vocabulary)
    assert scene is not None  # the caption was made of the vocabulary
    return scene


def _drawn(pipeline: DiffusionPipeline, captions: list[str], drawing: Drawing, title: str) -> list[np.ndarray]:
    pictures = generate(
        pipeline,
        captions,
        steps=drawing.steps,
        guidance=drawing.guidance,
        seed=SEED,
        batch_size=drawing.batch_size,
    )
    return list(tqdm(pictures, title, len(captions), unit="picture"))


def reconstructions(vae: AutoencoderKL, scenes: Scenes, vocabulary: Vocabulary) -> dict:
    """Gate 1: the judge on pictures that went through the VAE and back, and their peak signal-to-noise ratio in dB."""
    back = list(reconstructed(vae, np.stack([picture for _, picture in scenes])))
    errors = [np.square(a.astype(float) - b).mean() for a, (_, b) in zip(back, scenes, strict=True)]
    psnr = 10 * np.log10(255**2 / np.mean(errors))
    return {"psnr_db": round(float(psnr), 2)} | measure_composition(
        back, [caption for caption, _ in scenes], vocabulary
    )


def _means(vae: AutoencoderKL, pictures: list[np.ndarray]) -> torch.Tensor:
    return raw_latents(vae, np.stack(pictures))[0]


def chance(scenes: Scenes, vocabulary: Vocabulary) -> dict:
    """What the judge says of rendered pictures under each other's captions."""
    pictures = [picture for _, picture in scenes]
    return measure_composition(pictures, [caption for caption, _ in scenes[1:] + scenes[:1]], vocabulary)


def distances(vae: AutoencoderKL, scenes: Scenes, drawn: list[np.ndarray]) -> dict:
    """Fréchet distance of drawn from rendered pictures, beside that of the rendered pictures' halves."""
    rendered = pool_latents(_means(vae, [picture for _, picture in scenes]))
    half = len(rendered) // 2
    there = pool_latents(_means(vae, drawn))
    return {
        "frechet": round(measure_frechet(there[:half], rendered[half:]).value, 4),
        "frechet_floor": round(measure_frechet(rendered[:half], rendered[half:]).value, 4),
    }


def variety(
    pipeline: DiffusionPipeline, vocabulary: Vocabulary, drawing: Drawing, out: Path, captions: int = 6, draws: int = 10
) -> dict:
    """Gate 3: how much place and radius (pixels) of the largest thing vary between pictures of one caption.

    Medians over captions of the standard deviation over pictures, drawn and (the measure) rendered ones.
    """
    chosen = [caption for caption, _ in _scenes(vocabulary, captions, things=1)]
    every = [caption for caption in chosen for _ in range(draws)]
    rng = np.random.default_rng(SEED)
    made = {
        "drawn": _drawn(pipeline, every, drawing, "variety"),
        "rendered": [render_scene(_told(caption, vocabulary), vocabulary, rng) for caption in every],
    }
    sets = {name: [pictures[i : i + draws] for i in range(0, len(every), draws)] for name, pictures in made.items()}
    render_grid(dict(zip(map(_short, chosen), sets["drawn"], strict=True)), 2).save(out / "variety.png")
    return {name: _spread(groups, vocabulary) for name, groups in sets.items()}


def _spread(groups: list[list[np.ndarray]], vocabulary: Vocabulary) -> dict:
    spreads = []
    for group in groups:
        seen = [things[0] for _, things in (detect_objects(picture, vocabulary) for picture in group) if things]
        if len(seen) > 1:
            spreads.append(np.std([(thing.x, thing.y, thing.radius) for thing in seen], axis=0))
    names = ("x_px", "y_px", "radius_px")
    if not spreads:  # nothing was drawn twice
        return dict.fromkeys(names)
    return {name: round(float(value), 2) for name, value in zip(names, np.median(spreads, axis=0), strict=True)}


def _short(caption: str) -> str:
    return caption.replace("a picture of ", "").replace(" background", "").replace(" on a ", ", ")


def memory(
    pipeline: DiffusionPipeline,
    vocabulary: Vocabulary,
    recipe: Recipe,
    drawing: Drawing,
    out: Path,
    samples: int = 20,
) -> dict:
    """Gate 3: the nearest training picture (root mean squared difference, 0..255) of drawn and of unseen real pictures.

    A model that draws from memory is much nearer to its training pictures than unseen real pictures are.
    """
    training = np.stack(
        [render_sample(vocabulary, recipe.seed, i)[1] for i in tqdm(range(recipe.pictures), "training scenes")]
    )
    scenes = _scenes(vocabulary, samples)
    drawn = _drawn(pipeline, [caption for caption, _ in scenes], drawing, "samples")
    near, far = _nearest(drawn, training), _nearest([picture for _, picture in scenes], training)
    rows = {"drawn": drawn, "nearest in training": [training[i] for i, _ in near]}
    render_grid(rows, 1).save(out / "nearest.png")
    return {
        "drawn_to_training": round(float(np.median([d for _, d in near])), 2),
        "unseen_to_training": round(float(np.median([d for _, d in far])), 2),
    }


def _nearest(pictures: list[np.ndarray], training: np.ndarray) -> list[tuple[int, float]]:
    """Number and root mean squared difference of each picture's nearest one in `training` (NHWC uint8)."""
    wanted = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
    best = np.full(len(pictures), np.inf), np.zeros(len(pictures), int)
    for start in range(0, len(training), 1000):
        chunk = training[start : start + 1000].reshape(-1, wanted.shape[1]).astype(np.float32)
        squares = (wanted**2).sum(1)[:, None] - 2 * wanted @ chunk.T + (chunk**2).sum(1)
        here = squares.argmin(1)
        values = squares[np.arange(len(wanted)), here]
        better = values < best[0]
        best[0][better], best[1][better] = values[better], here[better] + start
    return [(int(i), float(np.sqrt(max(d, 0) / wanted.shape[1]))) for d, i in zip(*best, strict=True)]


def table(figures: dict) -> str:
    """The figures as Markdown: the judge's shares by set of pictures, then the rest."""
    judged = {name: values for name, values in figures.items() if "composition" in values}
    head = ["pictures", "all claims", *CLAIMS, "Fréchet (floor)"]
    lines = [head, ["---"] * len(head)]
    for name, values in judged.items():
        whole = values["composition"]
        cells = [values["composition_by"].get(claim) for claim in CLAIMS]
        near = f"{values['frechet']:.3f} ({values['frechet_floor']:.3f})" if "frechet" in values else "–"
        shares = [f"{100 * cell['value']:.1f} %" if cell else "–" for cell in cells]
        lines.append([name, "{value:.1%} ({low:.1%}–{high:.1%})".format(**whole).replace("%", " %"), *shares, near])
    rest = [
        f"Reconstructions: {figures['reconstructions']['psnr_db']} dB.",
        "Spread over pictures of one caption: "
        + "; ".join(f"{name} {values}" for name, values in figures["variety"].items()),
        "Nearest training picture, RMS of 255: drawn {drawn_to_training}, unseen {unseen_to_training}.".format(
            **figures["memory"]
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n\n" + "\n".join(rest)
