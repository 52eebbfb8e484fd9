"""The wall of pictures: every model's picture of a prompt, from the same noise, with what was lost in it."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunella.sampling.benchmark_prompts import Prompt

MAX_SIDE = 384  # pixels, to which larger pictures are reduced
MAX_LOSSLESS_SIDE = 128  # pixels, up to which every pixel is kept
MAX_PAGE_PIXELS = 40_000_000  # that the page holds at most: some 6 MB
MAX_STRIP_WIDTH = 700  # pixels, to which the rows of pictures drawn while training are reduced
MAX_STEPS_SHOWN = 5  # of a training, whose pictures are shown
MIN_PROMPTS = 8  # prompts that are shown whatever they take
ImagesByModel = dict[str, list[tuple[Prompt, np.ndarray]]]
ClaimJudge = Callable[[np.ndarray, str], dict[str, bool] | None]
NO_CLAIMS: ClaimJudge = lambda image, prompt: None  # noqa: E731


def limit_prompts(num_models: int, side: int, requested: int) -> int:
    """How many prompts the page has room for, of `requested`, at so many models and pixels to a side."""
    return min(requested, max(MIN_PROMPTS, MAX_PAGE_PIXELS // (num_models * min(side, MAX_SIDE) ** 2)))


def build_gallery(
    images_by_model: ImagesByModel, errors: dict[str, list[float]], claim_judge: ClaimJudge = NO_CLAIMS
) -> list[dict[str, Any]]:
    """{"number", "text", "claims", "cells"} of each prompt; cells by model: {"source", "false", "error", "apart"}.

    `errors` are output errors by held-out pair, of models that have them. "false" lists the claims of the caption that
    the picture does not keep, "apart" is the mean squared difference of pixels (0 to 1) from the teacher's picture.
    """
    cards = []
    for i, (prompt, teacher_image) in enumerate(images_by_model["teacher"]):
        cells, claims = {}, None
        for model, model_images in images_by_model.items():
            verdict, image = claim_judge(model_images[i][1], prompt.text), model_images[i][1]
            claims = claims or (verdict and list(verdict))
            cells[model] = {
                "source": encode_webp_uri(image),
                "false": [claim for claim, true in (verdict or {}).items() if not true],
                "error": errors[model][prompt.pair] if model in errors and prompt.pair is not None else None,
                "apart": _mean_squared_difference(image, teacher_image),
            }
        cards.append({"number": prompt.number + 1, "text": prompt.text, "claims": claims or [], "cells": cells})
    return cards


def load_training_images(
    curves: Path, students: list[str], base_models: Sequence[str] = ()
) -> dict[str, list[tuple[int, str]]]:
    """Pictures that were drawn while a student learned, as (step, source), by "TRAINING/STUDENT"; a few of many.

    Those of `students` that are `base_models` have not been distilled here.
    """
    images_by_training = {}
    distilled = [name for name in students if name not in base_models]
    for name in [*(f"distill/{student}" for student in distilled), *(f"finetune/{student}" for student in students)]:
        files = sorted((curves / name / "samples").glob("*.png"), key=lambda path: int(path.stem))
        selected = (
            sorted({round(i * (len(files) - 1) / (MAX_STEPS_SHOWN - 1)) for i in range(MAX_STEPS_SHOWN)})
            if files
            else []
        )
        images_by_training[name] = [
            (int(files[i].stem), encode_webp_uri(np.asarray(Image.open(files[i]).convert("RGB")), MAX_STRIP_WIDTH))
            for i in selected
        ]
    return {name: selected for name, selected in images_by_training.items() if selected}


def encode_webp_uri(pixels: np.ndarray, side: int = MAX_SIDE) -> str:
    """A picture (HWC uint8) as a `data:` address of a WebP, no larger than `side`; small ones lose nothing."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side))
    image.save(file, "WEBP", **({"lossless": True} if max(image.size) <= MAX_LOSSLESS_SIDE else {"quality": 82}))
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _mean_squared_difference(image: np.ndarray, other: np.ndarray) -> float:
    difference = image.astype(np.float32) - other.astype(np.float32)
    return round(float(np.square(difference / 255).mean()), 5)
