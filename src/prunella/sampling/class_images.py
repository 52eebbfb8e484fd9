"""Prior preservation of DreamBooth (Ruiz et al. 2022, arXiv 2208.12242): what a thing's class looks like to the model.

The model draws pictures of the class before it is tuned, and learns them beside the thing, so that it does not forget.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunella.compute.distributed import get_accelerator
from prunella.compute.launch import rank
from prunella.compute.resume import DONE_FILE, compute_identity, open_run_dir
from prunella.latents.encoders import Encoders
from prunella.latents.shards import read_manifest, verify_shard, write_manifest, write_shard
from prunella.params import Finetune
from prunella.sampling.generate import generate, load_for_inference
from prunella.storage.files import atomic_write_text

CODE_DEPS = ("compute", "latents/encoders.py", "models", "sampling/class_images.py", "sampling/generate.py")
TRAIN_SPLIT = "train"


def make_class_latents(params: Finetune, model_dir: Path, latents_dir: Path, device: str) -> Path:
    """The folder of encoded pictures of the class, which `model_dir` draws; those of an interrupted drawing are taken
    up.

    They are as large, and their caption is stored, as in the folder `latents_dir`. Among several processes, the first
    draws.
    """
    dreambooth, latents_manifest = params.dreambooth, read_manifest(latents_dir)
    identity_params = dreambooth.model_dump(
        include={"class_prompts", "class_images", "num_inference_steps", "guidance_scale"}
    )
    identity_params |= {
        "side": latents_manifest["resolution"],
        "text": latents_manifest["text"],
        "seed": params.seed,
        "precision": params.precision,
    }
    identity_params |= {"batch_size": params.batch_size}
    with open_run_dir(
        "prior",
        compute_identity(identity_params, [model_dir], CODE_DEPS),
        is_main_process=rank() == 0,
        started_glob="*.safetensors",
    ) as work_dir:
        if rank() == 0 and not (work_dir / DONE_FILE).is_file():
            _generate_class_images(
                params, model_dir, latents_manifest["resolution"], latents_manifest["text"], work_dir, device
            )
        get_accelerator(device).wait_for_everyone()
    return work_dir


def _generate_class_images(
    params: Finetune, model_dir: Path, resolution: int, text_storage: str, work_dir: Path, device: str
) -> None:
    dreambooth, batch_size = params.dreambooth, params.batch_size
    prompt_list = [dreambooth.class_prompts[i % len(dreambooth.class_prompts)] for i in range(dreambooth.class_images)]
    sampling_settings: dict[str, Any] = {"steps": dreambooth.num_inference_steps, "guidance": dreambooth.guidance_scale}
    sampling_settings |= {"seed": params.seed, "size": resolution}
    pipeline, encoders = load_for_inference(model_dir, device, params.precision), Encoders(model_dir, device)
    work_dir.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(prompt_list), batch_size)):
        prompts = prompt_list[first : first + batch_size]
        if (shard := verify_shard(work_dir, f"{TRAIN_SPLIT}-{number:05d}")) is None:
            images = list(generate(pipeline, prompts, batch_size=batch_size, first_noise_id=first, **sampling_settings))
            tensors = _encode_class_images(encoders, images, prompts, text_storage, resolution)
            shard = write_shard(work_dir, TRAIN_SPLIT, number, (resolution, resolution), prompts, tensors)
        print(f"class pictures: {first + len(prompts)} of {len(prompt_list)}", flush=True)
        shards.append(shard)
    metadata = {"scaling_factor": encoders.scaling_factor, "resolution": resolution, "text": text_storage}
    write_manifest(work_dir, shards, encoders.encode_empty(), **metadata)
    atomic_write_text(work_dir / DONE_FILE, "{}")


def _encode_class_images(
    encoders: Encoders, images: list[np.ndarray], prompts: list[str], text_storage: str, resolution: int
) -> dict[str, torch.Tensor]:
    """The record of the pictures in a shard, as `prunella.latents.shards` says."""
    mean, std = encoders.encode_images(np.stack(images))
    text_tensors = encoders.tokenize(prompts)[0] if text_storage == "tokens" else encoders.encode_captions(prompts)
    if "pooled" in text_tensors or "tokens_2" in text_tensors:
        text_tensors["sizes"] = torch.tensor(
            [[resolution, resolution, 0, 0, resolution, resolution]] * len(images)
        ).float()
    return {"mean": mean, "std": std, **text_tensors}
