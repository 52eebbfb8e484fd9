"""Configs of a pipeline folder, whoever wrote them: of the types that diffusers expects, and of what is supported.

What is checked here is what stock loading would take and then train or draw wrongly with, or fail at hours later.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # typing's own is refused by pydantic before Python 3.12
)

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from prunella.errors import UserError
from prunella.models.families import FAMILIES, called_as, family, shape
from prunella.models.families.base import Family
from prunella.params import typed
from prunella.storage.files import read_json

# Upper bounds are far above any model's; without them building a network from a config of 10**9 layers has no end.
Width = Annotated[int, Field(ge=1, le=2**20)]
Few = Annotated[int, Field(ge=1, le=256)]
Each = Annotated[list[Width], Field(min_length=1, max_length=16)]
Types = Annotated[list[str], Field(max_length=16)]
Beta = Annotated[float, Field(gt=0, lt=1)]
as_written = with_config(ConfigDict(extra="allow", strict=True))

# Noise is added as in DDPM (arXiv 2006.11239), by a table of betas; they differ in how they draw only.
SCHEDULERS = (
    *(
        "DDPM",
        "DDIM",
        "PNDM",
        "LMSDiscrete",
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "HeunDiscrete",
        "KDPM2Discrete",
    ),
    *("KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep"),
    *("UniPCMultistep", "SASolver", "LCM", "TCD"),
)
# Keys that have to be null or missing, by part, with what they would mean.
UNSUPPORTED = {
    "unet": {
        "time_cond_proj_dim": "distilled guidance",
        "class_embed_type": "class labels",
        "num_class_embeds": "class labels",
        "encoder_hid_dim": "projected text or pictures",
        "encoder_hid_dim_type": "projected text or pictures",
    },
    "vae": {
        "latents_mean": "latents normalised by channel",
        "latents_std": "latents normalised by channel",
        "shift_factor": "shifted latents",
    },
}
# The same of every part: other files than those that were looked at would be loaded.
ELSEWHERE = {"transformers_weights": "weights in another file", "quantization_config": "quantised weights"}
MODELS = ("unet", "vae", "text_encoder", "text_encoder_2", "safety_checker", "image_encoder")  # parts with weights
OTHERS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")  # parts without
LIBRARIES = {"unet": "diffusers", "vae": "diffusers", "safety_checker": "stable_diffusion"}  # the others: transformers


@as_written
class UNet(TypedDict):
    """What is read of a UNet's config, by us or while it is built."""

    _class_name: NotRequired[str]
    _diffusers_version: NotRequired[Annotated[str, Field(pattern=r"^\d+\.\d+")]]
    down_block_types: NotRequired[Types]
    up_block_types: NotRequired[Types]
    mid_block_type: NotRequired[str | None]
    block_out_channels: NotRequired[Each]
    layers_per_block: NotRequired[Few | Annotated[list[Few], Field(max_length=16)]]
    transformer_layers_per_block: NotRequired[Few | Annotated[list[Few | list[Few]], Field(max_length=16)]]
    reverse_transformer_layers_per_block: NotRequired[
        Few | Annotated[list[Few | list[Few]], Field(max_length=16)] | None
    ]
    attention_head_dim: NotRequired[Width | Each]
    num_attention_heads: NotRequired[Width | Each | None]
    cross_attention_dim: NotRequired[Width | Each]
    norm_num_groups: NotRequired[Width]
    in_channels: NotRequired[Width]
    out_channels: NotRequired[Width]
    sample_size: NotRequired[Width]
    addition_embed_type: NotRequired[str | None]
    addition_time_embed_dim: NotRequired[Width | None]
    projection_class_embeddings_input_dim: NotRequired[Width | None]


@as_written
class Vae(TypedDict):
    """What is read of a VAE's config."""

    _class_name: Literal["AutoencoderKL"]
    down_block_types: NotRequired[Types]
    up_block_types: NotRequired[Types]
    block_out_channels: NotRequired[Each]
    layers_per_block: NotRequired[Few]
    latent_channels: NotRequired[Width]
    norm_num_groups: NotRequired[Width]
    scaling_factor: NotRequired[Annotated[float, Field(gt=0, allow_inf_nan=False)]]


@as_written
class Text(TypedDict):
    """What is read of a text encoder's config."""

    hidden_size: NotRequired[Width]
    intermediate_size: NotRequired[Width]
    num_hidden_layers: NotRequired[Few]
    num_attention_heads: NotRequired[Width]
    max_position_embeddings: NotRequired[Width]
    projection_dim: NotRequired[Width]
    vocab_size: NotRequired[Annotated[int, Field(ge=1, le=2**24)]]


@as_written
class Scheduler(TypedDict):
    """What a noise schedule is made from."""

    _class_name: str
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
    beta_start: NotRequired[Beta]
    beta_end: NotRequired[Beta]
    trained_betas: NotRequired[list[Beta] | None]
    num_train_timesteps: NotRequired[Annotated[int, Field(ge=1, le=2**20)]]
    prediction_type: NotRequired[Literal["epsilon", "v_prediction"]]


Component = Annotated[list[str | None], Field(min_length=2, max_length=2)]
Students = Callable[[Mapping[str, Any]], bool]  # whether a UNet of a config that is no family's is taken


def nobody(_: Mapping[str, Any]) -> bool:
    """No student is taken."""
    return False


KINDS: dict[str, Any] = {"unet": UNet, "vae": Vae, "text_encoder": Text, "text_encoder_2": Text}


def described(folder: Path, students: Students = nobody) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(family, UNet config, scheduler config) of a pipeline folder, all its parts' configs checked.

    A UNet of other depths will do as well where `students` says so of its config; its family is then the one that it
    is called as. Raises UserError that names file and key where they are not those of a supported Stable Diffusion.
    """
    unet = config(folder, "unet")
    name = family(unet) or (called_as(unet) if students(unet) else None)
    if unet.get("_class_name") != "UNet2DConditionModel" or name is None:
        known = ", ".join(f"{each} ({kind.title})" for each, kind in FAMILIES.items())
        raise UserError(
            f"teacher.path: {folder} is no Stable Diffusion: its UNet is a {unet.get('_class_name')} with "
            f"{shape(unet)}; known families: {known}"
        )
    kind = FAMILIES[name]
    scheduler = _scheduler(folder)
    there = components(folder, kind)
    configs = {part: config(folder, part) for part in there if part in MODELS}
    for part, each in configs.items():
        _supported(folder / part / "config.json", part, each)
    _fitting(folder, kind, configs)
    return name, unet, scheduler


def models(folder: Path, name: str) -> dict[str, tuple[str, str]]:
    """(library, class) of the parts with weights of a pipeline folder of the family `name`."""
    return {part: known for part, known in components(folder, FAMILIES[name]).items() if part in MODELS}


def stem(library: str) -> str:
    """What a library calls the file of a model's weights."""
    return "diffusion_pytorch_model" if library == "diffusers" else "model"


def components(folder: Path, kind: Family) -> dict[str, tuple[str, str]]:
    """(library, class) by name, of what model_index.json says that the pipeline consists of."""
    path = folder / "model_index.json"
    index = _read(folder, path, dict[str, Any])
    if index.get("_class_name") != kind.pipeline:
        raise UserError(f"{path}: _class_name is {index.get('_class_name')!r}; {kind.pipeline} is expected")
    listed = {name: value for name, value in index.items() if isinstance(value, list) or name in (*MODELS, *OTHERS)}
    found = typed(TypeAdapter(dict[str, Component], config={"strict": True}), listed, str(path))
    there = {name: (library, named) for name, (library, named) in found.items() if library and named}
    for name in ("unet", "vae", "scheduler", "tokenizer", *kind.encoders):
        if name not in there:
            raise UserError(f"{path}: has no {name}, which a {kind.pipeline} needs")
    for name, (library, named) in there.items():
        if name in MODELS and library != LIBRARIES.get(name, "transformers"):
            raise UserError(f"{path}: {name} is a {named} of {library!r}; no other library's is supported there")
    return there


def config(folder: Path, part: str) -> dict[str, Any]:
    """The config.json of a part of a pipeline folder, of the types that its library expects."""
    return _read(folder, folder / part / "config.json", KINDS.get(part, dict[str, Any]))


def _read(folder: Path, path: Path, kind: Any) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"teacher.path: {folder} has no {path.relative_to(folder)}, so it is no diffusers pipeline folder"
        ) from None
    typed(TypeAdapter(kind), content, str(path))
    return content


def _scheduler(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    content = _read(folder, path, dict[str, Any])
    kind = content.get("_class_name")
    if kind not in [f"{name}Scheduler" for name in SCHEDULERS]:
        raise UserError(
            f"{path}: the scheduler is a {kind!r}, whose noise is not DDPM's or not known; such a teacher is not "
            f"supported yet. Supported: {', '.join(SCHEDULERS)} (each with …Scheduler)"
        )
    return _read(folder, path, Scheduler)


def _supported(path: Path, part: str, content: dict[str, Any]) -> None:
    for key, meaning in (UNSUPPORTED.get(part, {}) | ELSEWHERE).items():
        if content.get(key) is not None:
            raise UserError(f"{path}: {key} is set ({meaning}), which is not supported yet")


def _fitting(folder: Path, kind: Family, configs: dict[str, dict[str, Any]]) -> None:
    """UNet, VAE and text encoders are made for each other. Keys that a config leaves out are left to loading."""
    unet, vae, path = configs["unet"], configs["vae"], folder / "unet" / "config.json"
    if unet.get("addition_embed_type") != kind.embeds:
        raise UserError(
            f"{path}: addition_embed_type is {unet.get('addition_embed_type')!r}; "
            f"{kind.embeds!r} is expected of {kind.title}"
        )
    if unet.get("sample_size") is None:
        raise UserError(f"{path}: has no sample_size, the latents' side that it was trained for")
    latent = vae.get("latent_channels")
    channels = {key: unet.get(key) for key in ("in_channels", "out_channels")}
    for key, found in channels.items():
        if latent is not None and found != latent:
            raise UserError(
                f"{path}: {key} is {found}, and the VAE's latents have {latent} channels; inpainting, depth and "
                "editing models take more, and are not supported yet"
            )
    widths = [width for encoder in kind.encoders if (width := configs[encoder].get("hidden_size")) is not None]
    if len(widths) == len(kind.encoders) and unet.get("cross_attention_dim") != sum(widths):
        raise UserError(
            f"{path}: cross_attention_dim is {unet.get('cross_attention_dim')}, and the text encoders' hidden_size "
            f"{' + '.join(map(str, widths))}"
        )
