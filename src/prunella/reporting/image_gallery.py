"""The wall of pictures: every model's picture of a prompt, from the same noise, with what was lost in it."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunella.sampling.benchmark_prompts import Prompt

SIDE = 384  # pixels, to which larger pictures are reduced
LOSSLESS = 128  # pixels, up to which every pixel is kept
PIXELS = 40_000_000  # that the page holds at most: some 6 MB
WIDE = 700  # pixels, to which the rows of pictures drawn while training are reduced
STEPS = 5  # of a training, whose pictures are shown
FEWEST = 8  # prompts that are shown whatever they take
Galleries = dict[str, list[tuple[Prompt, np.ndarray]]]
Judge = Callable[[np.ndarray, str], dict[str, bool] | None]
NO_CLAIMS: Judge = lambda picture, prompt: None  # noqa: E731


def shown(models: int, side: int, wanted: int) -> int:
    """How many prompts the page has room for, of `wanted`, at so many models and pixels to a side."""
    return min(wanted, max(FEWEST, PIXELS // (models * min(side, SIDE) ** 2)))


def wall(galleries: Galleries, errors: dict[str, list[float]], judge: Judge = NO_CLAIMS) -> list[dict[str, Any]]:
    """{"number", "text", "claims", "cells"} of each prompt; cells by model: {"source", "false", "error", "apart"}.

    `errors` are output errors by held-out pair, of models that have them. "false" lists the claims of the caption that
    the picture does not keep, "apart" is the mean squared difference of pixels (0 to 1) from the teacher's picture.
    """
    cards = []
    for i, (prompt, theirs) in enumerate(galleries["teacher"]):
        cells, claims = {}, None
        for model, pictures in galleries.items():
            verdict, picture = judge(pictures[i][1], prompt.text), pictures[i][1]
            claims = claims or (verdict and list(verdict))
            cells[model] = {
                "source": data_uri(picture),
                "false": [claim for claim, true in (verdict or {}).items() if not true],
                "error": errors[model][prompt.pair] if model in errors and prompt.pair is not None else None,
                "apart": _apart(picture, theirs),
            }
        cards.append({"number": prompt.number + 1, "text": prompt.text, "claims": claims or [], "cells": cells})
    return cards


def samples(curves: Path, students: list[str], others: Sequence[str] = ()) -> dict[str, list[tuple[int, str]]]:
    """Pictures that were drawn while a student learned, as (step, source), by "TRAINING/STUDENT"; a few of many.

    Those of `students` that are `others` have not been distilled here.
    """
    found = {}
    distilled = [name for name in students if name not in others]
    for name in [*(f"distill/{student}" for student in distilled), *(f"finetune/{student}" for student in students)]:
        files = sorted((curves / name / "samples").glob("*.png"), key=lambda path: int(path.stem))
        some = sorted({round(i * (len(files) - 1) / (STEPS - 1)) for i in range(STEPS)}) if files else []
        found[name] = [
            (int(files[i].stem), data_uri(np.asarray(Image.open(files[i]).convert("RGB")), WIDE)) for i in some
        ]
    return {name: some for name, some in found.items() if some}


def data_uri(picture: np.ndarray, side: int = SIDE) -> str:
    """A picture (HWC uint8) as a `data:` address of a WebP, no larger than `side`; small ones lose nothing."""
    image, file = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((side, side))
    image.save(file, "WEBP", **({"lossless": True} if max(image.size) <= LOSSLESS else {"quality": 82}))
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _apart(picture: np.ndarray, other: np.ndarray) -> float:
    difference = picture.astype(np.float32) - other.astype(np.float32)
    return round(float(np.square(difference / 255).mean()), 5)
