import shutil

import pytest
import torch
from safetensors.torch import load_file

from prunella.errors import UserError
from prunella.models.pipeline import load_pipeline, load_scheduler, load_unet, save_pipeline


def test_broken_weights_are_named_by_their_folder(own_teacher):
    weights = own_teacher / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"teacher.unet: cannot be loaded: "):
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


def test_a_unet_is_loaded_in_fp32_or_as_it_is_stored(teacher, tmp_path):
    assert load_unet(teacher).dtype == torch.float32
    assert load_unet(teacher, as_stored=True).dtype == torch.float16  # as the toy's is
    for dtype in (torch.bfloat16, torch.float32):
        load_unet(teacher).to(dtype).save_pretrained(tmp_path / "unet")
        assert load_unet(tmp_path, as_stored=True).dtype == dtype
