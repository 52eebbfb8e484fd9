"""A model pinned in a file: what stages of the first teacher, of further ones and of bases share."""

import json
from collections.abc import Callable
from pathlib import Path

from prunella.models.teacher import earlier_pin
from prunella.storage.files import atomic_write_text


def pin_to(out: Path, pin: Callable[[dict], dict]) -> tuple[dict, str]:
    """Write to `out` what `pin` makes of what is pinned there; that, and in words where the weights are.

    Weights are checked where they are not those pinned before: reading all of them takes a while, and the same ones
    stay sound. Raises UserError as `pin` and `check_teacher` do.
    """
    earlier = earlier_pin(out)
    pinned = pin(earlier)
    if pinned != earlier:
        from prunella.models.pipeline import check_teacher  # with torch, which nothing else here needs

        check_teacher(pinned)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out, json.dumps(pinned, indent=1) + "\n")
    return pinned, pinned.get("path") or f"{pinned['id']} at {pinned['commit']}"
