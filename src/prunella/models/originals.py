"""UNet configs of teachers, by the name of an original (sd15, sd21, sdxl) or from a pipeline folder."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from prunella.errors import UserError
from prunella.params import unknown

FILE = Path(__file__).with_suffix(".yaml")


@cache
def originals() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(FILE.read_text())


def teacher_config(teacher: str) -> dict[str, Any]:
    """The UNet config of an original, or of the diffusers pipeline folder `teacher`."""
    if teacher in originals():
        return originals()[teacher]
    path = Path(teacher) / "unet" / "config.json"
    if not path.is_file():
        folder = "it is no pipeline folder either" if Path(teacher).is_dir() else "there is no such folder either"
        raise UserError(f"--teacher: {unknown('original', teacher, sorted(originals()))}; {folder} (no {path})")
    return json.loads(path.read_text())
