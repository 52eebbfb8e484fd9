"""Whether a teacher's weights are what its configs say: every tensor there, of the right shape, and finite.

Names and shapes are compared by loading each part onto the meta device, which reads headers only; for finiteness the
weights are read once, mapped, at the disk's speed (see docs/students.md for what it takes).
"""

from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from prunella.errors import UserError
from prunella.models.components import check_component_loads, name_folder_in_errors
from prunella.models.configs import list_model_components, weights_stem
from prunella.models.weights import (
    PICKLE_SUFFIXES,
    check_finite_safetensors,
    check_weight_files,
    format_nonfinite,
    read_header,
)

# What a checkpoint of one file holds beside (EMA, optimizer) is not taken, and need not be finite.
OPEN_CLIP_PREFIXES = ("cond_stage_model.model.", "conditioner.embedders.1.model.")  # of SD 2.x, of SDXL
LDM_CONVERTERS = {"UNet2DConditionModel": convert_ldm_unet_checkpoint, "AutoencoderKL": convert_ldm_vae_checkpoint}
LOADED_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


def check_pipeline_dir(folder: Path, family: str) -> None:
    """Check all parts of a pipeline folder of the family.

    Raises UserError that names part or file, and tensor, where one is missing, of another shape, or not finite.
    """
    components = list_model_components(folder, family)
    with name_folder_in_errors(folder):  # what has no weights: schedulers and tokenizers
        diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        diffusers.DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(components))
    for component, (library, class_name) in components.items():
        files = check_weight_files(
            folder / component, True, weights_stem(library)
        )  # pinning has refused pickles that are not allowed
        check_component_loads(folder / component, library, class_name)
        for path in files:
            check_finite_tensors(path)


def check_finite_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> None:
    """Raises UserError where a tensor whose name begins with one of `prefixes` holds NaN or infinite numbers."""
    if path.suffix not in PICKLE_SUFFIXES:
        check_finite_safetensors(path, lambda name: name.startswith(prefixes))
        return
    for name, value in _load_pickle(path, "cpu").items():
        if value.is_floating_point() and name.startswith(prefixes):
            num_finite = int(value.isfinite().sum())
            if num_finite < value.numel():
                raise UserError(format_nonfinite(path, name, value.numel() - num_finite, value.numel()))


def check_single_file(path: Path, configs_dir: Path, family: str) -> None:
    """Check a checkpoint of one file against the configs of a pipeline folder. As `check_pipeline_dir`."""
    with torch.device("meta"), name_folder_in_errors(path):
        tensors = _read_meta_tensors(path)
        for component, (_, class_name) in list_model_components(configs_dir, family).items():
            if component in ("unet", "vae", "text_encoder", "text_encoder_2"):
                _check_names_and_shapes(
                    path, component, *_convert_component(tensors, configs_dir / component, class_name)
                )
    check_finite_tensors(path, LOADED_PREFIXES)


def _read_meta_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, of their shapes, on the meta device."""
    if path.suffix not in PICKLE_SUFFIXES:
        return {name: torch.empty(entry["shape"], device="meta") for name, entry in read_header(path).items()}
    return _load_pickle(path, "meta")


def _load_pickle(path: Path, device: str) -> dict[str, Tensor]:
    with name_folder_in_errors(path):
        state_dict = torch.load(path, device, weights_only=True, mmap=True)
    state_dict = state_dict.get("state_dict", state_dict) if isinstance(state_dict, dict) else {}
    return {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}


def _convert_component(
    tensors: dict[str, Tensor], config_dir: Path, class_name: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The shape of a part by its config, and what diffusers makes of the file's tensors; all on the meta device."""
    if class_name in LDM_CONVERTERS:
        model_class = getattr(diffusers, class_name)
        converted = LDM_CONVERTERS[class_name](dict(tensors), model_class.load_config(config_dir))
        return model_class.from_config(model_class.load_config(config_dir)).state_dict(), converted
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class.from_pretrained(config_dir))
    prefixes = [prefix for prefix in OPEN_CLIP_PREFIXES if any(name.startswith(prefix) for name in tensors)]
    # SDXL has CLIP's own layout for its first encoder, and OpenCLIP's for the second.
    if prefixes and (config_dir.name == "text_encoder_2") == (prefixes[0] == OPEN_CLIP_PREFIXES[1]):
        converted = convert_open_clip_checkpoint(model, tensors, prefixes[0])
    else:
        converted = convert_ldm_clip_checkpoint(tensors)
    if not hasattr(model, "text_model"):
        converted = {name.removeprefix("text_model."): value for name, value in converted.items()}
    return model.state_dict(), converted


def _check_names_and_shapes(
    path: Path, component: str, expected: dict[str, Tensor], existing: dict[str, Tensor]
) -> None:
    if missing := sorted(expected.keys() - existing.keys()):
        raise UserError(
            f"{path}: lacks the {component}'s {missing[0]} ({len(missing)} missing in all), which its config.json "
            "asks for"
        )
    for name, value in expected.items():
        if existing[name].shape != value.shape:
            raise UserError(
                f"{path}: the {component}'s {name} is of shape {tuple(existing[name].shape)} there, and "
                f"{tuple(value.shape)} "
                "by its config.json"
            )
