"""What a model was made from: the commit, DVC's hashes, the teacher, the plan. No place on this machine is named."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from prunella.pruning.plan import BESIDE
from prunella.storage.files import read_json
from prunella.tracking.datasets import hashes

TEACHER = Path("models/teacher.json")


def lineage(folder: Path) -> dict[str, str]:
    """Words → values, in the order in which a card shows them; what is not known is left out."""
    told = {
        "Prunella's commit": commit(),
        "model (DVC's hash)": hashes().get(folder.as_posix(), ""),
        "training pairs (DVC's hash)": hashes().get("data/latents", ""),
        "plan": _plan(folder),
        "teacher": teacher_name(read_json(TEACHER)) if TEACHER.is_file() else "",
        "teacher's UNet (SHA-256)": _unet_hash(),
    }
    return {name: value for name, value in told.items() if value}


def commit() -> str:
    """The commit that is checked out, with a word where files differ from it; "" outside of git."""
    head = _git("rev-parse", "HEAD")
    return head + (" and uncommitted changes" if head and _git("status", "--porcelain", "--untracked-files=no") else "")


def teacher_name(pinned: dict[str, Any]) -> str:
    """A pinned teacher by its Hub id and commit, or by the last part of its path."""
    if pinned["source"] == "bundled":
        return "the miniature that Prunella ships"
    if pinned["source"] == "hub":
        return f"{pinned['id']} at {pinned['commit']}"
    return Path(pinned["path"]).name


def _unet_hash() -> str:
    if not TEACHER.is_file():
        return ""
    files = read_json(TEACHER)["files"]
    return next((digest for name, digest in files.items() if name.endswith(".safetensors") and "unet" in name), "")


def _plan(folder: Path) -> str:
    path = folder / "unet" / BESIDE
    return f"{yaml.safe_load(path.read_text(encoding='utf-8'))['title']} (unet/{BESIDE})" if path.is_file() else ""


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
