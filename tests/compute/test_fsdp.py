import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from prunella.compute import device, fsdp
from prunella.compute.compile import compile_regions
from prunella.compute.device import Placement, make_placement
from prunella.errors import UserError
from prunella.params import Runtime

RUNTIME = {"engine": "local", "device": "auto", "processes": 2, "workers": 0, "threads": 0, "micro_batch": "auto"}


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=6,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=5,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def test_layers_are_put_together_one_at_a_time(unet):
    assert fsdp.list_wrapped_modules(unet) == [
        "down_blocks.0.attentions.0.transformer_blocks.0",
        "down_blocks.0.resnets.0",
        "down_blocks.1.resnets.0",
        "up_blocks.0.resnets.0",
        "up_blocks.0.resnets.1",
        "up_blocks.1.attentions.0.transformer_blocks.0",
        "up_blocks.1.attentions.1.transformer_blocks.0",
        "up_blocks.1.resnets.0",
        "up_blocks.1.resnets.1",
    ]


def test_no_layer_lies_inside_of_what_is_compiled(unet):
    """Its weights are put together around it, which inside of a compiled part would not happen."""
    layers = fsdp.list_wrapped_modules(unet)
    with compile_regions(unet, layers, "eager") as names:
        assert not [layer for layer in layers if any(layer.startswith(f"{name}.") for name in names)]
        assert set(layers) <= set(names)


def test_a_shell_has_no_content_until_it_is_filled(unet):
    unet.conv_in.requires_grad_(False)
    empty = fsdp.to_meta(unet)
    assert {part.device.type for part in empty.parameters()} == {"meta"}
    assert [part.requires_grad for part in empty.parameters()] == [part.requires_grad for part in unet.parameters()]
    assert {part.device.type for part in unet.parameters()} == {"cpu"}
    empty.load_state_dict(unet.state_dict(), assign=True)
    given = torch.ones(1, 4, 6, 6), torch.tensor([3]), torch.ones(1, 2, 5)
    assert torch.equal(empty(*given).sample, unet(*given).sample)


def test_what_is_no_part_stays_as_it_is():
    model = nn.Linear(2, 3)
    state = {"a": [model.weight, (1, 2.5)], "b": {"c": "said"}}
    assert not fsdp.is_fsdp(model)
    assert fsdp.full_state_dict(state) == state and fsdp.full_state_dict(state, retain=False) == state
    assert fsdp.shard_like(model.bias, model.bias) is model.bias
    moments = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 2)}}, "param_groups": []}
    assert fsdp.shard_state_like(moments, list(model.parameters())) == moments
    assert fsdp.full_scalar(torch.tensor(2.5)) == 2.5


@pytest.mark.parametrize(("processes", "asked", "expected"), [(2, "auto", True), (2, False, True), (1, "auto", False)])
def test_weights_are_cut_where_there_are_several_processes(monkeypatch, processes, asked, expected):
    monkeypatch.setattr(device, "world_size", lambda: processes)
    runtime = Runtime(compile=False, channels_last=asked, fsdp=True, **RUNTIME)
    last = asked == "auto" and not expected  # tensors are cut as they lie
    assert make_placement(runtime, "cuda:1") == Placement("cuda:1", False, last, fsdp=expected)


def test_channels_last_is_refused_with_it(monkeypatch):
    monkeypatch.setattr(device, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"^runtime\.channels_last: true does not go with runtime\.fsdp: true"):
        make_placement(Runtime(compile=False, channels_last=True, fsdp=True, **RUNTIME), "cuda:0")
