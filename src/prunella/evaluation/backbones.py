"""Networks that metrics look through: found on this machine, loaded once, asked for unit embeddings or features.

Nothing is downloaded. A backbone that is not there, or cannot be loaded, makes its metrics unavailable, with the line
that would give it.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from prunella.evaluation.metrics.base import Images, MetricContext, Unavailable
from prunella.params import Backbones

NVIDIA_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"
DOWNLOAD_COMMANDS = {
    "clip": "hf download openai/clip-vit-large-patch14 --local-dir backbones/clip",
    "dino": "hf download facebook/dinov2-base --local-dir backbones/dino",
    "inception": f"curl --create-dirs -o backbones/inception.pt {NVIDIA_URL}/inception-2015-12-05.pt",
    "vgg": f"curl --create-dirs -o backbones/vgg.pt {NVIDIA_URL}/vgg16.pt",
    "aesthetic": "curl --create-dirs -Lo backbones/aesthetic.pth https://github.com/christophschuhmann/"
    "improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth",
    "preference": "hf download yuvalkirstain/PickScore_v1 --local-dir backbones/preference",
    "hpsv2": "hf download adams-story/HPSv2-hf --local-dir backbones/hpsv2",
    "vqa": "hf download Qwen/Qwen3-VL-8B-Instruct --local-dir backbones/vqa",
}
FILE_PATHS = {
    name: f"backbones/{name}.{kind}" for name, kind in (("inception", "pt"), ("vgg", "pt"), ("aesthetic", "pth"))
}
LOAD_ERRORS = (OSError, ImportError, ValueError, RuntimeError, AttributeError, KeyError, SafetensorError)


def find_backbone(backbones: Backbones, name: str) -> Path:
    """The place of the backbone. Raises Unavailable, with the line that would give it, where it is not on this
    machine."""
    location = getattr(backbones, name)
    hint = (
        f"`{DOWNLOAD_COMMANDS[name]}` and benchmark.backbones.{name}: {FILE_PATHS.get(name, f'backbones/{name}')} "
        "give one"
    )
    if location is None:
        raise Unavailable(f"needs benchmark.backbones.{name}; {hint}")
    if (path := Path(location)).exists():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(location, local_files_only=True))
    except (OSError, HFValidationError):
        raise Unavailable(
            f"benchmark.backbones.{name}: {location} is neither a path nor in the Hub's cache here; {hint}"
        ) from None


class LastBatchCache:
    """The result for the last batch, kept for the next metric that asks for the same."""

    def __init__(self) -> None:
        self.images: Images | None = None
        self.result: Any = None

    def __call__(self, images: Images, compute: Any) -> Any:
        if self.images is not images:
            self.images, self.result = images, compute(images)
        return self.result


class ClipModel:
    """A CLIP of transformers, in fp32: unit embeddings (ND) of pictures and of texts."""

    def __init__(self, folder: Path, device: str):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = load_strict(CLIPModel, folder).to(device).eval()
        self.max_length, self.device, self.image_cache = (
            self.model.config.text_config.max_position_embeddings,
            device,
            LastBatchCache(),
        )

    def embed_images(self, images: Images) -> Tensor:
        """For pictures (HWC uint8)."""
        return self.image_cache(images, self._embed_images)

    @torch.inference_mode()
    def _embed_images(self, images: Images) -> Tensor:
        pixels = self.processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        return _to_unit_norm(self.model.get_image_features(pixel_values=pixels.to(self.device)))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Of texts; what is beyond CLIP's length is cut off."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        return _to_unit_norm(self.model.get_text_features(input_ids=ids, attention_mask=mask))

    @property
    def logit_scale(self) -> float:
        """The learned temperature that its training multiplied cosines by."""
        return float(self.model.logit_scale.detach().exp())


class VisionModel:
    """A vision transformer such as DINOv2, in fp32: unit embeddings (ND) of pictures, of the class token."""

    def __init__(self, folder: Path, device: str):
        from transformers import AutoImageProcessor, AutoModel

        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self.model, self.device = load_strict(AutoModel, folder).to(device).eval(), device

    @torch.inference_mode()
    def embed_images(self, images: Images) -> Tensor:
        """For pictures (HWC uint8)."""
        pixels = self.processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        return _to_unit_norm(self.model(pixel_values=pixels.to(self.device)))


class InceptionModel:
    """The Inception v3 of 2015 as TorchScript, which takes NCHW uint8 and resizes as the original does.

    https://github.com/NVlabs/stylegan3 (metrics) has it so; its features and FID are those of the TensorFlow original.
    """

    def __init__(self, file: Path, device: str):
        self.model, self.device, self.feature_cache = _load_torchscript(file, device), device, LastBatchCache()

    def extract_features(self, images: Images) -> np.ndarray:
        """NF float32, F = 2048, of pictures (HWC uint8) of one size."""
        return self.feature_cache(images, lambda images: self._run_model(images, return_features=True))

    def class_probabilities(self, images: Images) -> np.ndarray:
        """NK float32, K = 1008: the classes' probabilities, without the last layer's bias as the score's original."""
        return self._run_model(images, no_output_bias=True)

    @torch.inference_mode()
    def _run_model(self, images: Images, **kwargs: bool) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
        return self.model(pixels, **kwargs).float().cpu().numpy()


class VggModel:
    """VGG-16 with LPIPS's weights as TorchScript, as https://github.com/NVlabs/stylegan2-ada-pytorch has it.

    It takes NCHW pixels of 0 to 255, and gives features whose squared distance is LPIPS.
    """

    def __init__(self, file: Path, device: str):
        self.model, self.device = _load_torchscript(file, device), device

    @torch.inference_mode()
    def measure_lpips(self, image: np.ndarray, other_image: np.ndarray) -> float:
        """For two pictures (HWC uint8) of one size; no more are in memory, whose features are 0.5 GB each at 1024
        px."""
        pixels = torch.from_numpy(np.stack([image, other_image])).permute(0, 3, 1, 2).to(self.device, torch.float32)
        first, second = self.model(pixels, resize_images=False, return_lpips=True)
        return float((first - second).square().sum(dtype=torch.float64))


def _load_torchscript(file: Path, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # these are published as TorchScript alone
        return torch.jit.load(file, map_location=device).eval()


def load_strict(model_class: Any, model_dir: Path, dtype: torch.dtype | str = torch.float32) -> Any:
    """A model of transformers with every weight in its place; `dtype` "auto" is the one it is stored in."""
    model, loading_info = model_class.from_pretrained(
        model_dir, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    if loading_info["missing_keys"]:
        raise ValueError(f"has no {min(loading_info['missing_keys'])}, so it is no {type(model).__name__}")
    return model


def _to_unit_norm(output: Any) -> Tensor:
    pooled = output if isinstance(output, Tensor) else output.pooler_output
    return normalize(pooled.cpu().double(), dim=-1)


def load_backbone(context: MetricContext, name: str, model_class: Any) -> Any:
    """The backbone of that name, once for all metrics and models. Raises Unavailable."""

    def load_model() -> Any:
        path = find_backbone(context.backbones, name)
        try:
            return model_class(path, context.device)
        except LOAD_ERRORS as error:
            error_lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Unavailable(f"benchmark.backbones.{name}: {path} cannot be loaded: {error_lines[0][:300]}") from None

    return context.get_shared(f"backbone {name}", load_model)


def load_clip_backbone(context: MetricContext, name: str = "clip") -> ClipModel:
    """The CLIP of `benchmark.backbones.clip`, or of another key."""
    return load_backbone(context, name, ClipModel)


def load_dino(context: MetricContext) -> VisionModel:
    return load_backbone(context, "dino", VisionModel)


def load_inception(context: MetricContext) -> InceptionModel:
    return load_backbone(context, "inception", InceptionModel)


def load_vgg(context: MetricContext) -> VggModel:
    return load_backbone(context, "vgg", VggModel)
