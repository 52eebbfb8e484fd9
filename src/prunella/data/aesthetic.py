"""Aesthetic scores of pictures, by LAION's predictors: a linear head on CLIP's embedding of the picture.

Two kinds of head are published for OpenAI's CLIP ViT-L/14: one Linear(768, 1) (github.com/LAION-AI/aesthetic-predictor)
and a chain of linear layers with dropout and without activations, of which dropout is nothing once it is trained
(github.com/christophschuhmann/improved-aesthetic-predictor). Scores are about 1 to 10. A head fits the one CLIP that it
was trained on; others of the same width give numbers without meaning, which nothing here can notice.
"""

import json
import pickle
import re
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import linear, normalize
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from prunella.errors import UserError
from prunella.models.weights import read_header

try:  # without torchvision, CLIPImageProcessor falls back to this one with a warning
    from transformers import CLIPImageProcessorPil as Processor
except ImportError:  # before transformers 5.4 the plain name is the one of PIL
    from transformers import CLIPImageProcessor as Processor

PREPROCESSOR = "preprocessor_config.json"
LinearLayer = tuple[torch.Tensor, torch.Tensor | None]  # weight [out, in], bias [out]


class AestheticScorer:
    """Scores pictures with a head (.safetensors, .pth or .pt) on a CLIP (a transformers folder), both in fp32."""

    def __init__(self, head: Path, clip: Path, device: str):
        """Raises UserError where a file is missing or broken, or where the head does not fit the CLIP."""
        self.device = device
        self.processor, self.model = _load_clip(clip, device)
        width = self.model.config.projection_dim
        layers = _load_head_layers(head)
        if layers[0][0].shape[1] != width:
            raise UserError(
                f"{head}: takes embeddings of width {layers[0][0].shape[1]}, but the CLIP in {clip} gives {width}; "
                "take the CLIP that the head was trained on (of LAION's: openai/clip-vit-large-patch14, width 768)"
            )
        self.layers = [(w.to(device), b if b is None else b.to(device)) for w, b in layers]

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> list[float]:
        """A score a picture. They are one batch: ViT-L/14 takes a few MB of memory for each."""
        if not images:
            return []
        pixels = self.processor([image.convert("RGB") for image in images], return_tensors="pt").pixel_values
        scores = normalize(self.model(pixels.to(self.device)).image_embeds, dim=-1)
        for weight, bias in self.layers:
            scores = linear(scores, weight, bias)
        return scores[:, 0].tolist()


def _load_clip(folder: Path, device: str) -> tuple[Processor, CLIPVisionModelWithProjection]:
    for name in ("config.json", PREPROCESSOR):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: has no {name}; a transformers folder of a CLIP with its preprocessor is expected, "
                "as `hf download openai/clip-vit-large-patch14 --local-dir FOLDER` makes"
            )
    try:
        config_json = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = CLIPVisionConfig.from_pretrained(folder)
        # Of a CLIP with both towers, the width of its projection stands above the towers.
        config.projection_dim = config_json.get("projection_dim", config.projection_dim)
        model, loading_info = CLIPVisionModelWithProjection.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        processor = Processor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded as a CLIP: {_first_error_line(error)}") from error
    if loading_info["missing_keys"]:
        raise UserError(
            f"{folder}: has no {min(loading_info['missing_keys'])} ({len(loading_info['missing_keys'])} missing in "
            "all); "
            "a CLIPModel or a CLIPVisionModelWithProjection is expected"
        )
    return processor, model.to(device).eval()


def _load_head_layers(head: Path) -> list[LinearLayer]:
    """The head's linear layers in fp32, first to last, of a state dict such as {"layers.0.weight": …}."""
    weights = _load_head_tensors(head)
    names = sorted((name for name in weights if name.endswith("weight")), key=_layer_index)
    biases = {name.removesuffix("weight") + "bias" for name in names}
    if (
        not names
        or (unexpected := set(weights) - set(names) - biases)
        or any(weights[name].ndim != 2 for name in names)
    ):
        raise UserError(
            f"{head}: is no head of linear layers: a state dict of weights [out, in] and biases is expected, "
            f"got {', '.join(sorted(unexpected) if names and unexpected else sorted(weights)) or 'nothing'}"
        )
    _check_layers_chain(head, names, weights)
    return [(weights[name], weights.get(name.removesuffix("weight") + "bias")) for name in names]


def _check_layers_chain(head: Path, names: list[str], weights: dict[str, torch.Tensor]) -> None:
    for previous, name in pairwise(names):
        if weights[name].shape[1] != weights[previous].shape[0]:
            raise UserError(
                f"{head}: {name} takes {weights[name].shape[1]} values, but {previous} gives "
                f"{weights[previous].shape[0]}; "
                "the layers of a head must chain"
            )
        # The one published with activations (reluMSE) has both ReLU and dropout there; a state dict names neither.
        if _layer_index(name)[-1] - _layer_index(previous)[-1] > 2:
            raise UserError(
                f"{head}: between {previous} and {name} there is more than dropout, likely an activation; "
                "only heads that are linear throughout are known (of LAION's: linearMSE)"
            )
    for name in names:
        bias = weights.get(name.removesuffix("weight") + "bias")
        if bias is not None and bias.shape != weights[name].shape[:1]:
            raise UserError(f"{head}: the bias of {name} is {list(bias.shape)}, not {[weights[name].shape[0]]}")
    if weights[names[-1]].shape[0] != 1:
        raise UserError(f"{head}: {names[-1]} gives {weights[names[-1]].shape[0]} values; a head's last layer gives 1")


def _layer_index(name: str) -> list[int]:
    """The place of a layer: layers.10 comes after layers.2."""
    return [int(number) for number in re.findall(r"\d+", name)] or [0]


def _load_head_tensors(head: Path) -> dict[str, torch.Tensor]:
    if not head.is_file():
        raise UserError(f"{head}: there is no such file; a head of LAION's aesthetic predictors is expected")
    if head.suffix == ".safetensors":
        read_header(head)  # says which file is cut off, and by how much
        weights = load_file(head)
    elif head.suffix in (".pth", ".pt"):
        try:
            weights = torch.load(head, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise UserError(f"{head}: cannot be loaded as plain tensors: {_first_error_line(error)}") from error
    else:
        raise UserError(f"{head}: a head is a .safetensors, .pth or .pt file")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{head}: is no state dict, which has a tensor for each name")
    return {name: value.float() for name, value in weights.items()}


def _first_error_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
