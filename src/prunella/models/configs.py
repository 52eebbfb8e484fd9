"""Configs of a pipeline folder, whoever wrote them: of the types that diffusers expects, and of what is supported.

The check covers what stock loading would take and then train or draw wrongly with, or fail at hours later.
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
from prunella.models.families import FAMILIES, describe_unet_shape, detect_teacher_family, pipeline_family
from prunella.models.families.base import Family
from prunella.params import validate_as
from prunella.storage.files import read_json

# Upper bounds are far above any model's; without them building a network from a config of 10**9 layers has no end.
Width = Annotated[int, Field(ge=1, le=2**20)]
SmallCount = Annotated[int, Field(ge=1, le=256)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]
BlockTypes = Annotated[list[str], Field(max_length=16)]
Beta = Annotated[float, Field(gt=0, lt=1)]
allow_extra_keys = with_config(ConfigDict(extra="allow", strict=True))

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
UNSUPPORTED_ANYWHERE = {"transformers_weights": "weights in another file", "quantization_config": "quantised weights"}
MODEL_COMPONENTS = (
    "unet",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "safety_checker",
    "image_encoder",
)  # parts with weights
OTHER_COMPONENTS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")  # parts without
COMPONENT_LIBRARIES = {
    "unet": "diffusers",
    "vae": "diffusers",
    "safety_checker": "stable_diffusion",
}  # the others: transformers


@allow_extra_keys
class UNetConfig(TypedDict):
    """The keys that are read of a UNet's config, by us or while it is built."""

    _class_name: NotRequired[str]
    _diffusers_version: NotRequired[Annotated[str, Field(pattern=r"^\d+\.\d+")]]
    down_block_types: NotRequired[BlockTypes]
    up_block_types: NotRequired[BlockTypes]
    mid_block_type: NotRequired[str | None]
    block_out_channels: NotRequired[Widths]
    layers_per_block: NotRequired[SmallCount | Annotated[list[SmallCount], Field(max_length=16)]]
    transformer_layers_per_block: NotRequired[
        SmallCount | Annotated[list[SmallCount | list[SmallCount]], Field(max_length=16)]
    ]
    reverse_transformer_layers_per_block: NotRequired[
        SmallCount | Annotated[list[SmallCount | list[SmallCount]], Field(max_length=16)] | None
    ]
    attention_head_dim: NotRequired[Width | Widths]
    num_attention_heads: NotRequired[Width | Widths | None]
    cross_attention_dim: NotRequired[Width | Widths]
    norm_num_groups: NotRequired[Width]
    in_channels: NotRequired[Width]
    out_channels: NotRequired[Width]
    sample_size: NotRequired[Width]
    addition_embed_type: NotRequired[str | None]
    addition_time_embed_dim: NotRequired[Width | None]
    projection_class_embeddings_input_dim: NotRequired[Width | None]


@allow_extra_keys
class VaeConfig(TypedDict):
    """The keys that are read of a VAE's config."""

    _class_name: Literal["AutoencoderKL"]
    down_block_types: NotRequired[BlockTypes]
    up_block_types: NotRequired[BlockTypes]
    block_out_channels: NotRequired[Widths]
    layers_per_block: NotRequired[SmallCount]
    latent_channels: NotRequired[Width]
    norm_num_groups: NotRequired[Width]
    scaling_factor: NotRequired[Annotated[float, Field(gt=0, allow_inf_nan=False)]]


@allow_extra_keys
class TextEncoderConfig(TypedDict):
    """The keys that are read of a text encoder's config."""

    hidden_size: NotRequired[Width]
    intermediate_size: NotRequired[Width]
    num_hidden_layers: NotRequired[SmallCount]
    num_attention_heads: NotRequired[Width]
    max_position_embeddings: NotRequired[Width]
    projection_dim: NotRequired[Width]
    vocab_size: NotRequired[Annotated[int, Field(ge=1, le=2**24)]]


@allow_extra_keys
class SchedulerConfig(TypedDict):
    """The keys that make a noise schedule."""

    _class_name: str
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
    beta_start: NotRequired[Beta]
    beta_end: NotRequired[Beta]
    trained_betas: NotRequired[list[Beta] | None]
    num_train_timesteps: NotRequired[Annotated[int, Field(ge=1, le=2**20)]]
    prediction_type: NotRequired[Literal["epsilon", "v_prediction"]]


ComponentEntry = Annotated[list[str | None], Field(min_length=2, max_length=2)]
StudentFilter = Callable[[Mapping[str, Any]], bool]  # whether a UNet of a config that is no family's is taken


def no_students(_: Mapping[str, Any]) -> bool:
    """No student is taken."""
    return False


CONFIG_TYPES: dict[str, Any] = {
    "unet": UNetConfig,
    "vae": VaeConfig,
    "text_encoder": TextEncoderConfig,
    "text_encoder_2": TextEncoderConfig,
}


def read_pipeline_configs(
    folder: Path, accepts_student: StudentFilter = no_students
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(family, UNet config, scheduler config) of a pipeline folder, all its parts' configs checked.

    A UNet of other depths will do as well where `accepts_student` says so of its config; its family is then the one
    that it is called as. Raises UserError that names file and key where they are not those of a supported Stable
    Diffusion.
    """
    unet = read_component_config(folder, "unet")
    name = detect_teacher_family(unet) or (pipeline_family(unet) if accepts_student(unet) else None)
    if unet.get("_class_name") != "UNet2DConditionModel" or name is None:
        known_families = ", ".join(
            f"{part_config} ({pipeline_type.title})" for part_config, pipeline_type in FAMILIES.items()
        )
        raise UserError(
            f"teacher.path: {folder} is no Stable Diffusion: its UNet is a {unet.get('_class_name')} with "
            f"{describe_unet_shape(unet)}; known families: {known_families}"
        )
    pipeline_type = FAMILIES[name]
    scheduler = _read_scheduler_config(folder)
    present = read_components(folder, pipeline_type)
    configs = {
        component: read_component_config(folder, component) for component in present if component in MODEL_COMPONENTS
    }
    for component, part_config in configs.items():
        _check_supported(folder / component / "config.json", component, part_config)
    _check_dimensions(folder, pipeline_type, configs)
    return name, unet, scheduler


def list_model_components(folder: Path, family: str) -> dict[str, tuple[str, str]]:
    """(library, class) of the parts with weights of a pipeline folder of the family `family`."""
    return {
        component: library_and_class
        for component, library_and_class in read_components(folder, FAMILIES[family]).items()
        if component in MODEL_COMPONENTS
    }


def weights_stem(library: str) -> str:
    """The file name that a library gives a model's weights."""
    return "diffusion_pytorch_model" if library == "diffusers" else "model"


def read_components(folder: Path, pipeline_type: Family) -> dict[str, tuple[str, str]]:
    """(library, class) by name, of what model_index.json says that the pipeline consists of."""
    path = folder / "model_index.json"
    index = _read_config_file(folder, path, dict[str, Any])
    if index.get("_class_name") != pipeline_type.pipeline_class:
        raise UserError(
            f"{path}: _class_name is {index.get('_class_name')!r}; {pipeline_type.pipeline_class} is expected"
        )
    raw_entries = {
        name: value
        for name, value in index.items()
        if isinstance(value, list) or name in (*MODEL_COMPONENTS, *OTHER_COMPONENTS)
    }
    entries = validate_as(TypeAdapter(dict[str, ComponentEntry], config={"strict": True}), raw_entries, str(path))
    present = {name: (library, class_name) for name, (library, class_name) in entries.items() if library and class_name}
    for name in ("unet", "vae", "scheduler", "tokenizer", *pipeline_type.text_encoders):
        if name not in present:
            raise UserError(f"{path}: has no {name}, which a {pipeline_type.pipeline_class} needs")
    for name, (library, class_name) in present.items():
        if name in MODEL_COMPONENTS and library != COMPONENT_LIBRARIES.get(name, "transformers"):
            raise UserError(f"{path}: {name} is a {class_name} of {library!r}; no other library's is supported there")
    return present


def read_component_config(folder: Path, component: str) -> dict[str, Any]:
    """The config.json of a part of a pipeline folder, of the types that its library expects."""
    return _read_config_file(folder, folder / component / "config.json", CONFIG_TYPES.get(component, dict[str, Any]))


def _read_config_file(folder: Path, path: Path, config_type: Any) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"teacher.path: {folder} has no {path.relative_to(folder)}, so it is no diffusers pipeline folder"
        ) from None
    validate_as(TypeAdapter(config_type), content, str(path))
    return content


def _read_scheduler_config(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    content = _read_config_file(folder, path, dict[str, Any])
    class_name = content.get("_class_name")
    if class_name not in [f"{name}Scheduler" for name in SCHEDULERS]:
        raise UserError(
            f"{path}: the scheduler is a {class_name!r}, whose noise is not DDPM's or not known; such a teacher is not "
            f"supported yet. Supported: {', '.join(SCHEDULERS)} (each with …Scheduler)"
        )
    return _read_config_file(folder, path, SchedulerConfig)


def _check_supported(path: Path, component: str, content: dict[str, Any]) -> None:
    for key, meaning in (UNSUPPORTED.get(component, {}) | UNSUPPORTED_ANYWHERE).items():
        if content.get(key) is not None:
            raise UserError(f"{path}: {key} is set ({meaning}), which is not supported yet")


def _check_dimensions(folder: Path, pipeline_type: Family, configs: dict[str, dict[str, Any]]) -> None:
    """UNet, VAE and text encoders are made for each other. Keys that a config leaves out are left to loading."""
    unet, vae, path = configs["unet"], configs["vae"], folder / "unet" / "config.json"
    if unet.get("addition_embed_type") != pipeline_type.addition_embed_type:
        raise UserError(
            f"{path}: addition_embed_type is {unet.get('addition_embed_type')!r}; "
            f"{pipeline_type.addition_embed_type!r} is expected of {pipeline_type.title}"
        )
    if unet.get("sample_size") is None:
        raise UserError(f"{path}: has no sample_size, the latents' side that it was trained for")
    latent_channels = vae.get("latent_channels")
    channels = {key: unet.get(key) for key in ("in_channels", "out_channels")}
    for key, num_channels in channels.items():
        if latent_channels is not None and num_channels != latent_channels:
            raise UserError(
                f"{path}: {key} is {num_channels}, and the VAE's latents have {latent_channels} channels; inpainting, "
                "depth and "
                "editing models take more, and are not supported yet"
            )
    widths = [
        width for encoder in pipeline_type.text_encoders if (width := configs[encoder].get("hidden_size")) is not None
    ]
    if len(widths) == len(pipeline_type.text_encoders) and unet.get("cross_attention_dim") != sum(widths):
        raise UserError(
            f"{path}: cross_attention_dim is {unet.get('cross_attention_dim')}, and the text encoders' hidden_size "
            f"{' + '.join(map(str, widths))}"
        )
