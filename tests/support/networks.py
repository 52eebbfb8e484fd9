"""Small random networks in place of those that metrics look through."""

import json
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

SIDE, WIDTH, CLASSES = 16, 10, 6
TOWER = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 4,
}
PREPROCESSOR = {
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


def toy_clip(folder: Path, tokenizer: Path) -> Path:
    """A CLIP of both towers, with a teacher's tokenizer."""
    shutil.copytree(tokenizer, folder)
    words = AutoTokenizer.from_pretrained(folder)
    text = TOWER | {
        "vocab_size": len(words),
        "max_position_embeddings": 19,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=WIDTH)).save_pretrained(folder)
    said = PREPROCESSOR | {"image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def toy_dino(folder: Path) -> Path:
    torch.manual_seed(1)
    Dinov2Model(Dinov2Config(**TOWER)).save_pretrained(folder)
    said = PREPROCESSOR | {"image_processor_type": "BitImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


class Inception(nn.Module):
    """Takes what the real one takes: means of cells as features, and class probabilities of them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, CLASSES)
        self.first = nn.Linear(3 * 4, WIDTH)

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        cells = nn.functional.adaptive_avg_pool2d(img.float() / 255, (2, 2)).flatten(1)
        features = self.first(cells)
        if return_features:
            return features
        logits = nn.functional.linear(features, self.last.weight)
        return (logits if no_output_bias else logits + self.last.bias).softmax(1)


class Vgg(nn.Module):
    """Takes what the real one takes: one layer, whose unit channels are weighed as LPIPS weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3, stride=2)
        self.weights = nn.Parameter(torch.rand(5))

    def forward(
        self, x: Tensor, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False
    ) -> Tensor:
        assert return_lpips and not resize_images and not return_features
        found = self.layer(x / 127.5 - 1).relu()
        found = found / (found.square().sum(1, keepdim=True) + 1e-10).sqrt()
        places = found.shape[2] * found.shape[3]
        return (found * (self.weights[:, None, None] / places).sqrt()).flatten(1)


def toy_inception(file: Path) -> Path:
    torch.manual_seed(2)
    return scripted(Inception(), file)


def toy_vgg(file: Path) -> Path:
    torch.manual_seed(4)
    return scripted(Vgg(), file)


def scripted(model: nn.Module, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript, which the published networks are stored as
        torch.jit.script(model).save(str(file))
    return file


CHAT = (
    "{% for each in messages[0]['content'] %}{{ '<image>' if each['type'] == 'image' else each['text'] }} {% endfor %}"
)


def toy_vqa(folder: Path, tokenizer: Path) -> Path:
    """A LLaVA with a teacher's tokenizer, which begins each text with a token of its own."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.add_tokens(["<image>"], special_tokens=True)
    seen = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    about = {"patch_size": TOWER["patch_size"], "vision_feature_select_strategy": "default"}
    LlavaProcessor(seen, words, **about, num_additional_image_tokens=1, chat_template=CHAT).save_pretrained(folder)
    read = {name: value for name, value in TOWER.items() if name not in ("image_size", "patch_size")}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = LlamaConfig(**read, num_key_value_heads=2, vocab_size=len(words), max_position_embeddings=96, **ends)
    place = words.convert_tokens_to_ids("<image>")
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=CLIPVisionConfig(**TOWER), text_config=text, image_token_index=place)
    )
    for weight in model.parameters():
        weight.data.mul_(3)  # so that answers differ
    model.save_pretrained(folder)
    return folder


def toy_head(file: Path) -> Path:
    """An aesthetic head on the toy CLIP."""
    torch.manual_seed(3)
    torch.save(nn.Linear(WIDTH, 1).state_dict(), file)
    return file
