"""Whether encoded pairs are made for a model: what would else end in a stack trace, or in a model that learns noise."""

import json
from pathlib import Path

from prunella.errors import UserError
from prunella.latents.shards import LatentDataset
from prunella.models.families import family_of_unet
from prunella.models.fingerprint import vae_fingerprint


def check_compatible(latents: LatentDataset, model: Path) -> None:
    """Raises UserError, naming both, where the pipeline folder `model` cannot learn from the pairs."""
    unet = json.loads((model / "unet" / "config.json").read_text(encoding="utf-8"))
    kind, row = family_of_unet(unet), latents.get_batch([0])
    if ("pooled" in latents.empty) != (kind.addition_embed_type is not None):
        other = "Stable Diffusion XL" if "pooled" in latents.empty else "Stable Diffusion 1.x or 2.x"
        raise describe_mismatch(latents, f"of {other}", model, f"of family {kind.title}")
    width = latents.empty["text"].shape[-1]
    if width != unet["cross_attention_dim"]:
        raise describe_mismatch(
            latents, f"with text of width {width}", model, f"of width {unet['cross_attention_dim']}"
        )
    channels = row["mean"].shape[1]
    if channels != unet["in_channels"]:
        raise describe_mismatch(latents, f"of {channels} channels", model, f"of {unet['in_channels']}")
    their_value = latents.manifest.get("vae")  # as encoded by a version that noted it
    if their_value not in (None, our_value := vae_fingerprint(model)):
        raise describe_mismatch(latents, f"of another VAE ({their_value})", model, f"with one of its own ({our_value})")


def describe_mismatch(latents: LatentDataset, theirs: str, model: Path, ours: str) -> UserError:
    return UserError(
        f"{latents.folder} holds pairs {theirs}, and {model} is a model {ours}; encode pictures with this model's own "
        "VAE and text encoders (docs/finetuning.md)"
    )
