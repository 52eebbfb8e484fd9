"""Disk space of a pipeline folder's weights."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from prunella.models.configs import MODEL_COMPONENTS, weights_stem
from prunella.models.quantized import load_quantized_unet
from prunella.models.weights import check_weight_files
from prunella.params import QuantizedDtype
from prunella.storage.files import read_json

EXCLUDED_COMPONENT = "safety_checker"


def measure_disk_mb(folder: Path) -> dict[str, float]:
    """MB (10⁶ bytes) of the weight files that stock loading reads, by part; the safety checker is left out."""
    components = {
        component: entry
        for component, entry in read_json(folder / "model_index.json").items()
        if component in MODEL_COMPONENTS
    }
    return {
        component: round(sum(file.stat().st_size for file in _list_weight_files(folder / component, library)) / 1e6, 3)
        for component, (library, class_name) in components.items()
        if library and class_name and component != EXCLUDED_COMPONENT
    }


def measure_quantized_mb(folder: Path, bits: QuantizedDtype) -> float:
    """MB of the UNet's weight file in `bits`, its other weights in bf16, as `prunella export` writes it."""
    with TemporaryDirectory() as save_dir:
        load_quantized_unet(folder, bits, torch.bfloat16).save_pretrained(save_dir)
        return round(sum(file.stat().st_size for file in Path(save_dir).glob("*.safetensors")) / 1e6, 3)


def _list_weight_files(component_dir: Path, library: str) -> list[Path]:
    return check_weight_files(component_dir, allow_pickle=True, stem=weights_stem(library))
