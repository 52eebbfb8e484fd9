"""UNet configs of teachers, by the name of an original (sd15, sd21, sdxl) or from a pipeline folder."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from prunella.errors import UserError
from prunella.models.configs import read_component_config
from prunella.params import did_you_mean

CONFIGS_FILE = Path(__file__).with_suffix(".yaml")


@cache
def load_reference_configs() -> dict[str, dict[str, Any]]:
    """Name → UNet config of the published teachers: sd15, sd21, sdxl."""
    return yaml.safe_load(CONFIGS_FILE.read_text(encoding="utf-8"))


def load_teacher_config(teacher: str) -> dict[str, Any]:
    """The UNet config of an original, or of the diffusers pipeline folder `teacher`.

    Raises UserError where it is neither, or the folder's config is of no known types.
    """
    if teacher in load_reference_configs():
        return load_reference_configs()[teacher]
    path = Path(teacher) / "unet" / "config.json"
    if not path.is_file():
        folder_hint = "it is no pipeline folder either" if Path(teacher).is_dir() else "there is no such folder either"
        raise UserError(
            f"--teacher: {did_you_mean('original', teacher, sorted(load_reference_configs()))}; {folder_hint} (no "
            f"{path})"
        )
    return read_component_config(Path(teacher), "unet")
