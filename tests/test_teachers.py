import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from prunella.errors import UserError
from prunella.params import Teacher
from prunella.teachers import load_pipeline, load_scheduler, load_unet, pin, pinned_path, save_pipeline


def asked(path) -> Teacher:
    return Teacher(source="folder", path=str(path))


def test_a_teacher_is_pinned_by_its_files(teacher):
    pinned = pin(asked(teacher))
    assert (pinned["family"], pinned["prediction_type"]) == ("sd", "v_prediction")
    assert pinned["unet"]["block_out_channels"] == [32, 64, 128, 128]
    assert "unet/diffusion_pytorch_model.safetensors" in pinned["files"]
    assert all(len(digest) == 64 for digest in pinned["files"].values())


def test_one_changed_byte_changes_the_pin(own_teacher):
    before = pin(asked(own_teacher))["files"]
    path = own_teacher / "vae" / "config.json"
    path.write_text(path.read_text() + " ")
    after = pin(asked(own_teacher))["files"]
    assert {name for name in before if before[name] != after[name]} == {"vae/config.json"}


def test_the_path_is_read_back(tmp_path, teacher):
    (tmp_path / "teacher.json").write_text(json.dumps(pin(asked(teacher))))
    assert pinned_path(tmp_path / "teacher.json") == teacher


def test_what_is_no_teacher_is_said_in_one_line(own_teacher, tmp_path):
    def refused(path) -> str:
        with pytest.raises(UserError) as caught:
            pin(asked(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no folder" in refused(tmp_path / "none")
    assert "has no unet/config.json, so it is no diffusers pipeline folder" in refused(tmp_path)
    config = own_teacher / "unet" / "config.json"
    sound = json.loads(config.read_text())
    config.write_text(json.dumps(sound | {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}))
    assert (
        "is no Stable Diffusion: its UNet is a UNet2DConditionModel with down blocks DownBlock2D, AttnDownBlock2D"
        in refused(own_teacher)
    )
    config.write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    said = refused(own_teacher)
    assert (
        "its UNet is a FluxTransformer2DModel with no down blocks; known families: sd (Stable Diffusion 1.x or" in said
    )
    config.write_text("{")
    assert "not valid JSON" in refused(own_teacher)


def test_broken_weights_are_named_by_their_folder(own_teacher):
    weights = own_teacher / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"teacher: cannot be loaded: "):
        load_unet(own_teacher)
    shutil.rmtree(own_teacher / "scheduler")
    with pytest.raises(UserError, match=r"teacher: cannot be loaded: "):
        load_scheduler(own_teacher)


def test_a_saved_pipeline_stores_halves_and_text_in_whole(teacher, tmp_path):
    unet = load_unet(teacher)
    with torch.no_grad():
        unet.conv_in.bias.fill_(0.123)
    save_pipeline(teacher, unet, tmp_path / "out", "fp16")

    def stored(part: str) -> dict:
        (path,) = (tmp_path / "out" / part).glob("*.safetensors")
        return load_file(path)

    assert {value.dtype for value in stored("unet").values()} == {torch.float16}
    assert {value.dtype for value in stored("vae").values()} == {torch.float16}
    assert {value.dtype for value in stored("text_encoder").values()} == {torch.float32}
    assert stored("unet")["conv_in.bias"][0].item() == pytest.approx(0.123, abs=1e-4)
    assert unet.conv_in.bias.dtype == torch.float32  # the one that was given is as it was
    assert not (tmp_path / "out.half").exists()


def test_saving_replaces_what_was_there(teacher, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    save_pipeline(teacher, load_unet(teacher), tmp_path / "out", "fp32")
    assert not (tmp_path / "out" / "stale").exists()
    assert load_pipeline(tmp_path / "out").unet.dtype == torch.float32
