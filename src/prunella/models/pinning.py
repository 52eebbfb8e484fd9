"""A model pinned in a file: what stages of the first teacher, of further ones and of bases share."""

import json
from collections.abc import Callable
from pathlib import Path

from prunella.models.teacher import read_pin
from prunella.storage.files import atomic_write_text


def write_pin(out: Path, make_pin: Callable[[dict], dict]) -> tuple[dict, str]:
    """Write to `out` what `make_pin` makes of what is pinned there; that, and in words where the weights are.

    Weights are checked where they are not those pinned before: reading all of them takes a while, and the same ones
    stay sound. Raises UserError as `make_pin` and `check_teacher` do.
    """
    previous_pin = read_pin(out)
    model_pin = make_pin(previous_pin)
    if model_pin != previous_pin:
        from prunella.models.pipeline import check_teacher_weights  # with torch, which nothing else here needs

        check_teacher_weights(model_pin)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out, json.dumps(model_pin, indent=1) + "\n")
    return model_pin, model_pin.get("path") or f"{model_pin['id']} at {model_pin['commit']}"
