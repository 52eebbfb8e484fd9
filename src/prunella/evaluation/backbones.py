"""Networks that metrics look through: found on this machine, loaded once, asked for unit embeddings or features.

Nothing is downloaded. What is not there, or cannot be loaded, makes its metrics unavailable, with the line that would
give it.
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

from prunella.evaluation.metrics.base import Images, Subject, Unavailable
from prunella.params import Backbones

NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"
GIVEN_BY = {
    "clip": "hf download openai/clip-vit-large-patch14 --local-dir backbones/clip",
    "dino": "hf download facebook/dinov2-base --local-dir backbones/dino",
    "inception": f"curl --create-dirs -o backbones/inception.pt {NVIDIA}/inception-2015-12-05.pt",
    "vgg": f"curl --create-dirs -o backbones/vgg.pt {NVIDIA}/vgg16.pt",
    "aesthetic": "curl --create-dirs -Lo backbones/aesthetic.pth https://github.com/christophschuhmann/"
    "improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth",
    "preference": "hf download yuvalkirstain/PickScore_v1 --local-dir backbones/preference",
    "hpsv2": "hf download adams-story/HPSv2-hf --local-dir backbones/hpsv2",
    "vqa": "hf download Qwen/Qwen3-VL-8B-Instruct --local-dir backbones/vqa",
}
PLACES = {name: f"backbones/{name}.{kind}" for name, kind in (("inception", "pt"), ("vgg", "pt"), ("aesthetic", "pth"))}
FAULTS = (OSError, ImportError, ValueError, RuntimeError, AttributeError, KeyError, SafetensorError)


def place(backbones: Backbones, name: str) -> Path:
    """Where the backbone is. Raises Unavailable, with the line that would give it, where it is not on this machine."""
    asked = getattr(backbones, name)
    given = f"`{GIVEN_BY[name]}` and benchmark.backbones.{name}: {PLACES.get(name, f'backbones/{name}')} give one"
    if asked is None:
        raise Unavailable(f"needs benchmark.backbones.{name}; {given}")
    if (path := Path(asked)).exists():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(asked, local_files_only=True))
    except (OSError, HFValidationError):
        raise Unavailable(
            f"benchmark.backbones.{name}: {asked} is neither a path nor in the Hub's cache here; {given}"
        ) from None


class Last:
    """What was made of the last batch, kept for the next metric that asks for the same."""

    def __init__(self) -> None:
        self.images: Images | None = None
        self.made: Any = None

    def __call__(self, images: Images, make: Any) -> Any:
        if self.images is not images:
            self.images, self.made = images, make(images)
        return self.made


class Clip:
    """A CLIP of transformers, in fp32: unit embeddings (ND) of pictures and of texts."""

    def __init__(self, folder: Path, device: str):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = whole(CLIPModel, folder).to(device).eval()
        self.longest, self.device, self.last = self.model.config.text_config.max_position_embeddings, device, Last()

    def images(self, images: Images) -> Tensor:
        """Of pictures (HWC uint8)."""
        return self.last(images, self._images)

    @torch.inference_mode()
    def _images(self, images: Images) -> Tensor:
        pixels = self.processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        return _unit(self.model.get_image_features(pixel_values=pixels.to(self.device)))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Of texts; what is beyond CLIP's length is cut off."""
        given = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.longest, return_tensors="pt"
        )
        ids, mask = given.input_ids.to(self.device), given.attention_mask.to(self.device)
        return _unit(self.model.get_text_features(input_ids=ids, attention_mask=mask))

    @property
    def scale(self) -> float:
        """The learned temperature that its training multiplied cosines by."""
        return float(self.model.logit_scale.detach().exp())


class Vision:
    """A vision transformer such as DINOv2, in fp32: unit embeddings (ND) of pictures, of the class token."""

    def __init__(self, folder: Path, device: str):
        from transformers import AutoImageProcessor, AutoModel

        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self.model, self.device = whole(AutoModel, folder).to(device).eval(), device

    @torch.inference_mode()
    def images(self, images: Images) -> Tensor:
        """Of pictures (HWC uint8)."""
        pixels = self.processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        return _unit(self.model(pixel_values=pixels.to(self.device)))


class Inception:
    """The Inception v3 of 2015 as TorchScript, which takes NCHW uint8 and resizes as the original does.

    https://github.com/NVlabs/stylegan3 (metrics) has it so; its features and FID are those of the TensorFlow original.
    """

    def __init__(self, file: Path, device: str):
        self.model, self.device, self.last = _scripted(file, device), device, Last()

    def features(self, images: Images) -> np.ndarray:
        """NF float32, F = 2048, of pictures (HWC uint8) of one size."""
        return self.last(images, lambda images: self._asked(images, return_features=True))

    def shares(self, images: Images) -> np.ndarray:
        """NK float32, K = 1008: the classes' probabilities, without the last layer's bias as the score's original."""
        return self._asked(images, no_output_bias=True)

    @torch.inference_mode()
    def _asked(self, images: Images, **how: bool) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
        return self.model(pixels, **how).float().cpu().numpy()


class Vgg:
    """VGG-16 with LPIPS's weights as TorchScript, as https://github.com/NVlabs/stylegan2-ada-pytorch has it.

    It takes NCHW pixels of 0 to 255, and gives features whose squared distance is LPIPS.
    """

    def __init__(self, file: Path, device: str):
        self.model, self.device = _scripted(file, device), device

    @torch.inference_mode()
    def lpips(self, one: np.ndarray, other: np.ndarray) -> float:
        """Of two pictures (HWC uint8) of one size; no more are in memory, whose features are 0.5 GB each at 1024 px."""
        pixels = torch.from_numpy(np.stack([one, other])).permute(0, 3, 1, 2).to(self.device, torch.float32)
        first, second = self.model(pixels, resize_images=False, return_lpips=True)
        return float((first - second).square().sum(dtype=torch.float64))


def _scripted(file: Path, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # these are published as TorchScript alone
        return torch.jit.load(file, map_location=device).eval()


def whole(kind: Any, folder: Path, dtype: torch.dtype | str = torch.float32) -> Any:
    """A model of transformers with every weight in its place; `dtype` "auto" is the one it is stored in."""
    model, told = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    if told["missing_keys"]:
        raise ValueError(f"has no {min(told['missing_keys'])}, so it is no {type(model).__name__}")
    return model


def _unit(output: Any) -> Tensor:
    pooled = output if isinstance(output, Tensor) else output.pooler_output
    return normalize(pooled.cpu().double(), dim=-1)


def loaded(subject: Subject, name: str, kind: Any) -> Any:
    """The backbone of that name, once for all metrics and models. Raises Unavailable."""

    def load() -> Any:
        found = place(subject.backbones, name)
        try:
            return kind(found, subject.device)
        except FAULTS as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise Unavailable(f"benchmark.backbones.{name}: {found} cannot be loaded: {said[0][:300]}") from None

    return subject.common(f"backbone {name}", load)


def clip(subject: Subject, name: str = "clip") -> Clip:
    """The CLIP of `benchmark.backbones.clip`, or of another key."""
    return loaded(subject, name, Clip)


def dino(subject: Subject) -> Vision:
    return loaded(subject, "dino", Vision)


def inception(subject: Subject) -> Inception:
    return loaded(subject, "inception", Inception)


def vgg(subject: Subject) -> Vgg:
    return loaded(subject, "vgg", Vgg)
