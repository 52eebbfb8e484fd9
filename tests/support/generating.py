"""Nine pictures of three prompts that the toy is asked for, and what a folder of them holds."""

from pathlib import Path

from conftest import SIDE

from prunella.params import Generate
from prunella.sampling.training_images import generate_images

PROMPTS = ["a red ring", "two hearts", "a small star"]
ASKED = {
    "prompts": "p.txt", "samples": 99, "images_per_prompt": 3, "model": "m", "id": None, "revision": "main",
    "negative_prompt": "grey", "guidance_scale": 3.0, "scheduler": None, "num_inference_steps": 2,
    "sizes": [[SIDE, SIDE]],
    "batch_size": 2, "precision": "fp32", "storage": "fp32", "seed": 5, "store": None,
}  # fmt: skip


def made(teacher: Path, folder: Path, name: str = "set", **changes) -> Path:
    report = generate_images(Generate(**ASKED | changes), name, folder / "p.txt", teacher, folder / name, "cpu")
    assert report["pictures"] == 9 or changes
    return folder / name


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
