"""Inputs and outputs of a stage, by DVC's hashes: for MLflow's columns of data sets and models."""

from pathlib import Path
from typing import NamedTuple

import yaml

DVC_LOCK = Path("dvc.lock")
DATA_DIRS = (
    "data/filtered",
    "data/latents",
    "data/drawn",
)  # folders of pairs, latents and pictures; the rest are models
MAX_DIGEST_CHARS = 36  # characters of a digest in MLflow; an md5 of DVC's with ".dir" has as many


class Dataset(NamedTuple):
    """A path that a stage depends on, and DVC's hash of it."""

    path: str
    digest: str


def read_output_hashes(lock_path: Path = DVC_LOCK) -> dict[str, str]:
    """Path → DVC's hash, of every output in dvc.lock; it is current for all stages before the one that runs."""
    try:
        stages = (yaml.safe_load(lock_path.read_text(encoding="utf-8")) or {}).get("stages") or {}
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return {}
    outs = [out for stage in stages.values() for out in stage.get("outs", ())]
    return {out["path"]: str(out[out["hash"]]) for out in outs if out.get("hash") in out}


def list_datasets(deps: tuple[str, ...]) -> list[Dataset]:
    """The data sets among the paths that a stage depends on."""
    output_hashes = read_output_hashes()
    return [
        Dataset(path, output_hashes[path][:MAX_DIGEST_CHARS])
        for path in deps
        if path.startswith(DATA_DIRS) and path in output_hashes
    ]
