"""Toys that the tests share: a miniature Stable Diffusion of awkward sizes, its data, its parameters."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from once import Once, made_once
from PIL import Image
from warm import interpreter

from prunella.params import ModelSource, Params, validate_config
from prunella.params.recipes import DEFAULTS, load_recipe, merge_recipe
from prunella.pipeline.stage import silence_libraries

silence_libraries()
ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)  # two workers, a core each

# The sizes of the toy. Latents of 8×8, so that the fourth stage works on 1×1.
SIDE, LATENT, TOKENS, WIDTH = 32, 8, 19, 24

TRAINING = {
    "gradient_accumulation_steps": 1,
    "optimizer": "adamw",
    "steps": 2,
    "batch_size": 3,
    "learning_rate": 1e-3,
    "lr_warmup_steps": 1,
    "lr_scheduler": "cosine",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ema_decay": 0.9,
    "precision": "fp32",
    "seed": 0,
}
LEARNING = TRAINING | {
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "snr_gamma": None,
    "noise_offset": 0.0,
    "shuffle_shards": None,
    "caption_dropout": 0.1,
    "gradient_checkpointing": False,
    "evaluate_every": 1,
    "patience": None,
    "storage": "fp16",
}
LORA = {
    "rank": 3,
    "alpha": 5,
    "dropout": 0.0,
    "target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
    "dora": False,
    "rslora": False,
    "text_encoder": False,
    "text_learning_rate": None,
}
TUNING = LEARNING | {"stage": "distilled", "latents": "data/latents", "data": {}, "base": {}, "caption_keywords": []}
DREAMBOOTH = {
    "weights": "full",
    "class_prompts": ["a ring", "a red heart"],
    "class_images": 5,
    "prior_loss_weight": 0.5,
}
DREAMBOOTH |= {"num_inference_steps": 2, "guidance_scale": 3.0, "text_encoder": False, "text_learning_rate": None}
TUNING |= {
    "students": None,
    "output_weight": 0.0,
    "replay_weight": 0.0,
    "method": "full",
    "lora": LORA,
    "dreambooth": DREAMBOOTH,
    "inversion": {"placeholder_token": None, "num_vectors": 1, "initializer_token": None},
}
DISTILLING = LEARNING | {
    "task_weight": 1.0,
    "output_weight": 0.5,
    "feature_weight": 0.5,
    "phases": [],
    "features": None,
    "feature_normalization": "none",
}


def toy_params(teacher: Path, pictures: Path, recipe: str | None = None) -> dict:
    """A whole parameter file that runs in seconds, on a folder of pictures: the committed one, or a recipe's."""
    text = DEFAULTS.read_text()
    content = yaml.safe_load(merge_recipe(load_recipe(recipe), text) if recipe else text)
    content["teacher"] |= {"source": "folder", "path": str(teacher)}
    content["filter"] |= {"source": "folder", "path": str(pictures), "samples": 29, "min_side": 16}
    content["filter"] |= {"aesthetic": {"min": None, "model": None, "clip": None}, "near_duplicates": None}
    content["encode"] |= {"resolution": SIDE, "buckets": "square", "batch_size": 5, "heldout": 7, "shard_size": 10}
    content["encode"]["storage"] = "fp32"
    content["plan"] |= {
        "samples": 5,
        "candidates": 3,
        "tournament_rounds": 1,
        "steps": 1,
        "batch_size": 3,
        "precision": "fp32",
    }
    for section in ("distill", "finetune"):
        content[section] |= {name: LEARNING[name] for name in ("steps", "batch_size", "evaluate_every", "ema_decay")}
        content[section]["gradient_accumulation_steps"] = 1
        content[section]["precision"] = "fp32"
    content["encode"]["precision"] = "fp32"
    content["watch"] |= {"checkpoint_every": 1, "image_every": 2, "prompts": 3, "num_inference_steps": 2}
    content["benchmark"] |= {
        "prompts": 3,
        "num_inference_steps": 2,
        "batch_size": 2,
        "latency_rounds": 1,
        "metrics": ["composition", "latent_kid"],
        "precision": "fp32",
    }
    return content


def asked(path, **changes) -> ModelSource:
    """The section `teacher` for a folder, with `changes`."""
    choice = {"source": "folder", "path": str(path), "id": None, "revision": "main", "config": None}
    return ModelSource(**choice | {"allow_pickle": False} | changes)


@pytest.fixture(scope="session")
def vocabulary():
    from prunella.scenes.generator import read_vocabulary

    return read_vocabulary(ROOT / "data" / "scenes.yaml")


@pytest.fixture(scope="session")
def recipe():
    """The miniature's recipe at the toy's sizes, two steps of each training."""
    from prunella.miniature.recipe import MiniatureRecipe, read_miniature_recipe

    content = read_miniature_recipe().model_dump()
    content["pictures"] = 11
    content["autoencoder"]["config"] |= {"block_out_channels": [8, 8, 16], "norm_num_groups": 4, "sample_size": SIDE}
    part = TRAINING | {"checkpoint_every": 1}
    content["autoencoder"] |= {"crop": 16, "training": part, "polish": part}
    content["denoiser"]["unet"] |= {"sample_size": LATENT, "cross_attention_dim": WIDTH}
    content["denoiser"]["text"] |= {
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": WIDTH,
    }
    content["denoiser"] |= {"naming": part, "training": part}
    return validate_config(MiniatureRecipe, content, "toy recipe")


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id) -> Once:
    """`once(name, make)`: the folder that `make` fills, made once for all workers. Not to be changed by tests."""
    return made_once(tmp_path_factory, worker_id)


@pytest.fixture(scope="session")
def warm() -> Iterator[dict[str, str]]:
    """The environment in which stages under DVC begin at once, for tests of what they give (see `warm.py`)."""
    with interpreter() as environment:
        yield environment


@pytest.fixture(scope="session")
def teacher(recipe, vocabulary, once) -> Path:
    """A toy teacher's pipeline folder, made as the miniature is. Not to be changed: see `own_teacher`."""
    from diffusers import UNet2DConditionModel

    from prunella.miniature.making import train_miniature

    def toy(folder: Path) -> None:
        train_miniature(recipe, vocabulary, folder / "toy", folder / "work", "cpu")
        # Two steps from nothing predict next to nothing; a random UNet gives students something to differ from.
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "toy" / "unet"))
        unet.half().save_pretrained(folder / "toy" / "unet")

    return once("teacher", toy) / "toy"


@pytest.fixture(scope="session")
def xl_teacher(vocabulary, once) -> Path:
    """A toy SDXL teacher's pipeline folder, its weights random."""
    from toyxl import written

    return once("xl-teacher", lambda folder: written(folder / "toy", vocabulary)) / "toy"


@pytest.fixture
def own_teacher(teacher, tmp_path) -> Path:
    """A copy of the toy teacher that a test may spoil."""
    return Path(shutil.copytree(teacher, tmp_path / "teacher"))


@pytest.fixture(scope="session")
def pictures(vocabulary, once) -> Path:
    """A folder of 29 captioned pictures of several sizes, as `datasets`' imagefolder has them."""
    import json

    from prunella.scenes.generator import render_sample

    def toy(folder: Path) -> None:
        with (folder / "metadata.jsonl").open("w") as listing:
            for i in range(29):
                text, pixels = render_sample(vocabulary, 5, i)
                picture = Image.fromarray(pixels).resize((40 + i, 50))
                picture.save(folder / f"{i}.png")
                listing.write(json.dumps({"file_name": f"{i}.png", "text": text}) + "\n")

    return once("pictures", toy)


@pytest.fixture(scope="session")
def params(teacher, pictures) -> Params:
    return validate_config(Params, toy_params(teacher, pictures), "toy params")


@pytest.fixture(scope="session")
def manifest(params, once) -> Path:
    from prunella.data.filter import filter_dataset

    return once("filtered", lambda out: filter_dataset(params.filter, params.seed, out))


@pytest.fixture(scope="session")
def latents(params, teacher, manifest, once) -> Path:
    """The toy's encoded pairs: 22 to train on, 7 held out."""
    return once("latents", lambda folder: _encode(params, teacher, manifest, folder)) / "latents"


@pytest.fixture(scope="session")
def xl_latents(params, xl_teacher, manifest, once) -> Path:
    """The same pairs, encoded by the toy SDXL teacher."""
    return once("xl-latents", lambda folder: _encode(params, xl_teacher, manifest, folder)) / "latents"


@pytest.fixture(scope="session")
def token_latents(params, teacher, manifest, once) -> Path:
    """The toy's pairs with tokens in place of text embeddings."""
    tokens = params.model_copy(update={"encode": params.encode.model_copy(update={"text": "tokens"})})
    return once("token-latents", lambda folder: _encode(tokens, teacher, manifest, folder)) / "latents"


@pytest.fixture(scope="session")
def xl_token_latents(params, xl_teacher, manifest, once) -> Path:
    """The same, of the toy SDXL teacher."""
    tokens = params.model_copy(update={"encode": params.encode.model_copy(update={"text": "tokens"})})
    return once("xl-token-latents", lambda folder: _encode(tokens, xl_teacher, manifest, folder)) / "latents"


def _encode(params: Params, teacher: Path, manifest: Path, folder: Path) -> None:
    from prunella.encoding.encode import encode_dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))  # where its work is
        encode_dataset(params.encode, params.seed, teacher, manifest, folder / "latents", "cpu")


@pytest.fixture(scope="session")
def pruned_tiny(params, teacher, once) -> Path:
    """sd-tiny of the toy teacher, as a pipeline folder."""
    from prunella.pruning.plan import SHIPPED_PLANS
    from prunella.pruning.prune import prune_to_folder

    plan = SHIPPED_PLANS / "sd-tiny.yaml"
    return once("pruned", lambda folder: prune_to_folder(params.prune, teacher, plan, folder / "sd-tiny")) / "sd-tiny"


@pytest.fixture(scope="session")
def pruned_xl(params, xl_teacher, once) -> Path:
    """ssd-1b of the toy SDXL teacher, as a pipeline folder."""
    from prunella.pruning.plan import SHIPPED_PLANS
    from prunella.pruning.prune import prune_to_folder

    plan = SHIPPED_PLANS / "ssd-1b.yaml"
    return (
        once("pruned-xl", lambda folder: prune_to_folder(params.prune, xl_teacher, plan, folder / "ssd-1b")) / "ssd-1b"
    )


@pytest.fixture
def noise():
    """A function from a shape to fixed random numbers."""
    random = np.random.default_rng(0)
    return lambda *shape: torch.from_numpy(random.standard_normal(shape, dtype=np.float32))


def pytest_collection_modifyitems(items):
    """The graph's tests first: they take longest, and each file goes to one of the workers."""
    items.sort(key=lambda item: item.path.name != "test_graph.py")
