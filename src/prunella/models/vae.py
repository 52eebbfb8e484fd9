"""Which latents a model speaks: whether two pipeline folders have the same VAE."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open


def latent_space(folder: Path) -> str:
    """16 digits that stand for a pipeline's VAE: its weights as fp16 holds them, in whatever file they lie.

    A student's VAE, stored in fp16, so has its teacher's digits.
    Two models whose digits are equal may take each other's latents without decoding them.
    """
    config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    scale = {name: config.get(name) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")}
    digest = hashlib.sha256(json.dumps(scale, sort_keys=True).encode())
    tensors: dict[str, bytes] = {}
    for file in sorted((folder / "vae").glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # no mapping: it does not iterate
                value = stored.get_tensor(name).to(torch.float16).contiguous()
                tensors[name] = hashlib.sha256(value.numpy().tobytes()).digest()
    for file in () if tensors else sorted((folder / "vae").glob("*.bin")):
        tensors[file.name] = file.read_bytes()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name])
    return digest.hexdigest()[:16]
