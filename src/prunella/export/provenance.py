"""The origin of a model: the commit, DVC's hashes, the teacher, the plan. No place on this machine is named."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from prunella.pruning.plan import PLAN_FILE
from prunella.storage.files import read_json
from prunella.tracking.datasets import read_output_hashes

TEACHER_PIN = Path("models/teacher.json")


def collect_model_provenance(folder: Path) -> dict[str, str]:
    """Words → values, in the order in which a card shows them; what is not known is left out."""
    provenance = {
        "Prunella's commit": describe_commit(),
        "model (DVC's hash)": read_output_hashes().get(folder.as_posix(), ""),
        "training pairs (DVC's hash)": read_output_hashes().get("data/latents", ""),
        "plan": _describe_plan(folder),
        "teacher": format_teacher_name(read_json(TEACHER_PIN)) if TEACHER_PIN.is_file() else "",
        "teacher's UNet (SHA-256)": _read_unet_hash(),
    }
    return {name: value for name, value in provenance.items() if value}


def describe_commit() -> str:
    """The commit that is checked out, with a word where files differ from it; "" outside of git."""
    head = _git_output("rev-parse", "HEAD")
    return head + (
        " and uncommitted changes" if head and _git_output("status", "--porcelain", "--untracked-files=no") else ""
    )


def format_teacher_name(teacher_pin: dict[str, Any]) -> str:
    """A pinned teacher by its Hub id and commit, or by the last part of its path."""
    if teacher_pin["source"] == "bundled":
        return "the miniature that Prunella ships"
    if teacher_pin["source"] == "hub":
        return f"{teacher_pin['id']} at {teacher_pin['commit']}"
    return Path(teacher_pin["path"]).name


def _read_unet_hash() -> str:
    if not TEACHER_PIN.is_file():
        return ""
    files = read_json(TEACHER_PIN)["files"]
    return next((digest for name, digest in files.items() if name.endswith(".safetensors") and "unet" in name), "")


def _describe_plan(folder: Path) -> str:
    path = folder / "unet" / PLAN_FILE
    return f"{yaml.safe_load(path.read_text(encoding='utf-8'))['title']} (unet/{PLAN_FILE})" if path.is_file() else ""


def _git_output(*args: str) -> str:
    result = subprocess.run(["git", *args], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""
