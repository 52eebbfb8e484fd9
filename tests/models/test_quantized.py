import shutil

import pytest
import torch
from bits import needs_torchao
from safetensors.torch import load_file, save_file

from prunella.errors import UserError
from prunella.models import quantized
from prunella.models.pipeline import load_unet
from prunella.models.quantized import load_quantized_unet


def test_without_torchao_it_says_what_to_install(pruned_tiny, monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"int8 weights need torchao.*pip install 'prunella\[torchao\]'"):
        load_quantized_unet(pruned_tiny, "int8", torch.float32)


@needs_torchao
def test_int8_weights_are_the_rounded_ones_of_each_row(pruned_tiny):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    exact, ours = load_unet(pruned_tiny), load_quantized_unet(pruned_tiny, "int8", torch.float32)
    weight = exact.get_submodule(name).weight
    step = weight.abs().amax(1, keepdim=True) / 127.5  # torchao takes -128 as well
    expected = (weight / step).round().clamp(-128, 127) * step
    assert (ours.get_submodule(name).weight.dequantize() - expected).abs().max() <= 1e-6
    assert torch.equal(ours.conv_in.weight, exact.conv_in.weight)  # convolutions stay


@needs_torchao
def test_bits_that_the_device_has_not_are_refused(pruned_tiny):
    with pytest.raises(UserError, match=r"int4: torchao has no such weights on this device \(cpu\)"):
        load_quantized_unet(pruned_tiny, "int4", torch.bfloat16)


@needs_torchao
def test_damaged_files_are_not_taken_for_a_device_that_lacks_something(pruned_tiny, tmp_path):
    folder = shutil.copytree(pruned_tiny, tmp_path / "student")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"unet: its weights lack conv_in\.bias"):
        load_quantized_unet(folder, "int8", torch.float32)
