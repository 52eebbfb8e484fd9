"""Which latents a model speaks and which text it reads: whether two pipeline folders have the same VAE and encoders."""

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
    digest.update(weights(folder / "vae"))
    return digest.hexdigest()[:16]


def text_space(folder: Path) -> str:
    """16 digits that stand for a pipeline's text encoders: their weights as fp16 holds them, in whatever file they lie.

    What two models whose digits are equal read in a caption is the same but for rounding.
    """
    parts = sorted(part.name for part in folder.glob("text_encoder*") if part.is_dir())
    return hashlib.sha256(b"".join(part.encode() + weights(folder / part) for part in parts)).hexdigest()[:16]


def weights(part: Path) -> bytes:
    """What stands for the weights in a part's folder as fp16 holds them: of each by name. Counters are no weights."""
    tensors: dict[str, bytes] = {}
    for file in sorted(part.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # no mapping: it does not iterate
                value = stored.get_tensor(name)
                if value.is_floating_point():
                    tensors[name] = hashlib.sha256(value.to(torch.float16).contiguous().numpy().tobytes()).digest()
    for file in () if tensors else sorted(part.glob("*.bin")):
        tensors[file.name] = file.read_bytes()
    return b"".join(name.encode() + tensors[name] for name in sorted(tensors))
