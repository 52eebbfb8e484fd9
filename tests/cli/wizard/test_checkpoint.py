"""Whose checkpoint it is, by a path or a Hub id: no network, no weights."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import LATENT, SIDE, TOKENS
from safetensors.torch import save_file

from prunella.cli.wizard.checkpoint import detect_checkpoint
from prunella.errors import UserError


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """A Hub cache that is empty, and a folder to work in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def test_a_folder_says_what_it_is(teacher, xl_teacher):
    found = detect_checkpoint(str(teacher))
    assert (found.source, found.name, found.family) == ("folder", str(teacher), "sd")
    assert (found.image_size, found.latent_size, found.max_tokens) == (SIDE, LATENT, TOKENS)
    assert detect_checkpoint(str(xl_teacher)).family == "sdxl"


def test_a_home_is_a_folder_too(teacher, monkeypatch):
    monkeypatch.setenv("HOME", str(teacher.parent))
    assert detect_checkpoint(f"~/{teacher.name}").name == str(teacher)


@pytest.mark.parametrize(
    ("names", "family", "side", "width"),
    [
        (["cond_stage_model.transformer.text_model.x"], "sd", 512, 768),
        (["cond_stage_model.model.ln_final.bias"], "sd", 768, 1024),
        (["conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x"], "sdxl", 1024, 2048),
    ],
)
def test_a_single_file_is_known_by_its_text_encoder(names, family, side, width, tmp_path):
    path = tmp_path / "my.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    found = detect_checkpoint(str(path))
    assert (found.source, found.family, found.image_size, found.latent_size) == ("file", family, side, side // 8)
    assert found.unet_config["cross_attention_dim"] == width


def test_a_hub_model_in_the_cache_says_what_it_is(xl_teacher, hub):
    repository = hub / "models--me--toy"
    shutil.copytree(xl_teacher, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    found = detect_checkpoint("me/toy")
    assert (found.source, found.name, found.family, found.image_size) == ("hub", "me/toy", "sdxl", SIDE)


def test_of_a_hub_model_that_is_not_there_only_originals_are_known():
    assert detect_checkpoint("stabilityai/stable-diffusion-2-1").image_size == 768
    found = detect_checkpoint("me/another")
    assert (found.family, str(found)) == (None, "me/another (not downloaded)")
    like = found.with_family_defaults("sdxl")
    assert (like.name, like.family, like.image_size, like.latent_size) == ("me/another", "sdxl", 1024, 128)


def test_what_is_none_of_these_is_refused_in_a_line(tmp_path, pruned_tiny):
    (tmp_path / "here" / "models").mkdir()
    for name in ("models/my-sd15", "/nowhere/sd15", "me/my.safetensors", "sd15", "a b/c", ""):
        with pytest.raises(UserError, match=r"no such folder or file.*Hub id such as owner/model") as caught:
            detect_checkpoint(name) if name else detect_checkpoint("./none/at/all")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"has no unet/config\.json, so it is no diffusers pipeline folder"):
        detect_checkpoint(str(tmp_path / "here"))
    with pytest.raises(UserError, match="is no Stable Diffusion: its UNet"):  # a student is nobody's teacher
        detect_checkpoint(str(pruned_tiny))
    (tmp_path / "my.ckpt").touch()
    with pytest.raises(UserError, match="is a pickle"):
        detect_checkpoint(str(tmp_path / "my.ckpt"))
    save_file({"model.diffusion_model.out.0.bias": torch.zeros(1)}, tmp_path / "unet.safetensors")
    with pytest.raises(UserError, match="no text encoder"):
        detect_checkpoint(str(tmp_path / "unet.safetensors"))
    (tmp_path / "notes.txt").write_text("no checkpoint")
    with pytest.raises(UserError, match="is no"):
        detect_checkpoint(str(tmp_path / "notes.txt"))
