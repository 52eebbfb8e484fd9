"""Prior preservation of DreamBooth (Ruiz et al. 2022, arXiv 2208.12242): what a thing's class looks like to the model.

The model draws pictures of the class before it is tuned, and learns them beside the thing, so that it does not forget.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunella.compute.distributed import team
from prunella.compute.launch import rank
from prunella.compute.resume import DONE, identity, resume_dir
from prunella.latents.encoders import Encoders
from prunella.latents.shards import read_manifest, whole_shard, write_manifest, write_shard
from prunella.params import Finetune
from prunella.sampling.generate import draw, load_to_draw
from prunella.storage.files import atomic_write_text

ROOMS = ("compute", "latents/encoders.py", "models", "sampling/class_images.py", "sampling/generate.py")
SPLIT = "train"


def class_latents(params: Finetune, model: Path, latents: Path, device: str) -> Path:
    """The folder of encoded pictures of the class, which `model` draws; those of an interrupted drawing are taken up.

    They are as large, and their caption is stored, as in the folder `latents`. Of several processes the first draws.
    """
    asked, like = params.dreambooth, read_manifest(latents)
    known = asked.model_dump(include={"class_prompts", "class_pictures", "inference_steps", "guidance"})
    known |= {"side": like["resolution"], "text": like["text"], "seed": params.seed, "precision": params.precision}
    known |= {"batch_size": params.batch_size}
    with resume_dir("prior", identity(known, [model], ROOMS), first=rank() == 0, begun="*.safetensors") as work:
        if rank() == 0 and not (work / DONE).is_file():
            _drawn(params, model, like["resolution"], like["text"], work, device)
        team(device).wait_for_everyone()
    return work


def _drawn(params: Finetune, model: Path, side: int, text: str, work: Path, device: str) -> None:
    asked, at_once = params.dreambooth, params.batch_size
    every = [asked.class_prompts[i % len(asked.class_prompts)] for i in range(asked.class_pictures)]
    settings: dict[str, Any] = {"steps": asked.inference_steps, "guidance": asked.guidance}
    settings |= {"seed": params.seed, "size": side}
    pipeline, encoders = load_to_draw(model, device, params.precision), Encoders(model, device)
    work.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(every), at_once)):
        prompts = every[first : first + at_once]
        if (shard := whole_shard(work, f"{SPLIT}-{number:05d}")) is None:
            pictures = list(draw(pipeline, prompts, batch_size=at_once, first=first, **settings))
            tensors = _tensors(encoders, pictures, prompts, text, side)
            shard = write_shard(work, SPLIT, number, (side, side), prompts, tensors)
        print(f"class pictures: {first + len(prompts)} of {len(every)}", flush=True)
        shards.append(shard)
    noted = {"scaling_factor": encoders.scaling_factor, "resolution": side, "text": text}
    write_manifest(work, shards, encoders.empty(), **noted)
    atomic_write_text(work / DONE, "{}")


def _tensors(
    encoders: Encoders, pictures: list[np.ndarray], prompts: list[str], text: str, side: int
) -> dict[str, torch.Tensor]:
    """What a shard holds of the pictures, as `prunella.latents.shards` says."""
    mean, std = encoders.latents(np.stack(pictures))
    said = encoders.tokens(prompts)[0] if text == "tokens" else encoders.text(prompts)
    if "pooled" in said or "tokens_2" in said:
        said["sizes"] = torch.tensor([[side, side, 0, 0, side, side]] * len(pictures)).float()
    return {"mean": mean, "std": std, **said}
