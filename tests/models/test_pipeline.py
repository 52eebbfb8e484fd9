import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

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


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_tensor_is_named_by_every_loading(part, own_teacher, teacher, tmp_path):
    (path,) = (own_teacher / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != name}, path)
    whole = load_unet(teacher)
    loadings = {
        "load_pipeline": lambda: load_pipeline(own_teacher),
        "load_unet": lambda: load_unet(own_teacher),
        "as stored": lambda: load_unet(own_teacher, keep_dtype=True),
        "save_pipeline": lambda: save_pipeline(own_teacher, whole, tmp_path / "out", "fp16"),
    }
    # The UNet is given to save_pipeline; load_unet loads nothing else.
    for said in {"unet": ["load_pipeline", "load_unet", "as stored"]}.get(part, ["load_pipeline", "save_pipeline"]):
        with pytest.raises(UserError, match=rf"{part}: its weights lack .*\(1 missing in all\)"):
            loadings[said]()
    assert not (tmp_path / "out").exists()
    if part != "unet":
        loadings["load_unet"]()


def test_a_text_encoder_of_another_shape_is_named(own_teacher):
    path = own_teacher / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("final_layer_norm.bias"))
    save_file(weights | {name: torch.zeros(25)}, path)
    with pytest.raises(UserError, match=r"text_encoder: .*final_layer_norm.bias is of shape \(25,\) .* \(24,\)"):
        load_pipeline(own_teacher)


def test_numbers_that_the_storage_cannot_hold(teacher, tmp_path):
    unet = load_unet(teacher)
    with torch.no_grad():
        unet.conv_in.bias[3] = 70_000.0
    with pytest.raises(UserError, match=r"storage: fp16 cannot hold conv_in.bias"):
        save_pipeline(teacher, unet, tmp_path / "out", "fp16")
    save_pipeline(teacher, unet, tmp_path / "out", "fp32")


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
    assert load_unet(teacher, keep_dtype=True).dtype == torch.float16  # as the toy's is
    for dtype in (torch.bfloat16, torch.float32):
        load_unet(teacher).to(dtype).save_pretrained(tmp_path / "unet")
        assert load_unet(tmp_path, keep_dtype=True).dtype == dtype
