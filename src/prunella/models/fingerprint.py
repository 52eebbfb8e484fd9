"""Fingerprints of a model's latents and texts: whether two pipeline folders have the same VAE and encoders."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open


def vae_fingerprint(folder: Path) -> str:
    """16 digits that stand for a pipeline's VAE: its weights as fp16 holds them, in whatever file they lie.

    A student's VAE, stored in fp16, so has its teacher's digits.
    Two models whose digits are equal may take each other's latents without decoding them.
    """
    config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    latent_scaling = {
        name: config.get(name) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    }
    digest = hashlib.sha256(json.dumps(latent_scaling, sort_keys=True).encode())
    digest.update(weights_digest(folder / "vae"))
    return digest.hexdigest()[:16]


def text_encoder_fingerprint(folder: Path) -> str:
    """16 digits that stand for a pipeline's text encoders: their weights as fp16 holds them, in whatever file they lie.

    Two models whose digits are equal read a caption alike but for rounding.
    """
    encoder_dirs = sorted(encoder_dir.name for encoder_dir in folder.glob("text_encoder*") if encoder_dir.is_dir())
    return hashlib.sha256(
        b"".join(encoder_dir.encode() + weights_digest(folder / encoder_dir) for encoder_dir in encoder_dirs)
    ).hexdigest()[:16]


def weights_digest(model_dir: Path) -> bytes:
    """The digest of the weights in a part's folder as fp16 holds them: of each by name. Counters are no weights."""
    tensors: dict[str, bytes] = {}
    for file in sorted(model_dir.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118  # no mapping: it does not iterate
                value = handle.get_tensor(name)
                if value.is_floating_point():
                    tensors[name] = hashlib.sha256(value.to(torch.float16).contiguous().numpy().tobytes()).digest()
    for file in () if tensors else sorted(model_dir.glob("*.bin")):
        tensors[file.name] = file.read_bytes()
    return b"".join(name.encode() + tensors[name] for name in sorted(tensors))
