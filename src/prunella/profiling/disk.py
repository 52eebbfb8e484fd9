"""What a pipeline folder's weights take on disk."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from prunella.models.configs import MODELS, stem
from prunella.models.quantized import load_quantised
from prunella.models.weights import check_part
from prunella.params import Bits
from prunella.storage.files import read_json

LEFT_OUT = "safety_checker"


def disk_mb(folder: Path) -> dict[str, float]:
    """MB (10⁶ bytes) of the weight files that stock loading reads, by part; the safety checker is left out."""
    listed = {part: each for part, each in read_json(folder / "model_index.json").items() if part in MODELS}
    return {
        part: round(sum(file.stat().st_size for file in _files(folder / part, library)) / 1e6, 3)
        for part, (library, kind) in listed.items()
        if library and kind and part != LEFT_OUT
    }


def quantised_mb(folder: Path, bits: Bits) -> float:
    """MB of the UNet's weight file in `bits`, its other weights in bf16, as `prunella export` writes it."""
    with TemporaryDirectory() as kept:
        load_quantised(folder, bits, torch.bfloat16).save_pretrained(kept)
        return round(sum(file.stat().st_size for file in Path(kept).glob("*.safetensors")) / 1e6, 3)


def _files(part: Path, library: str) -> list[Path]:
    return check_part(part, allow_pickle=True, stem=stem(library))
