import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from prunella.compute import device, fsdp
from prunella.compute.compile import compiled
from prunella.compute.device import Placement, place
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
    assert fsdp.units(unet) == [
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
    layers = fsdp.units(unet)
    with compiled(unet, layers, "eager") as names:
        assert not [layer for layer in layers if any(layer.startswith(f"{name}.") for name in names)]
        assert set(layers) <= set(names)


def test_a_shell_has_no_content_until_it_is_filled(unet):
    unet.conv_in.requires_grad_(False)
    empty = fsdp.shell(unet)
    assert {part.device.type for part in empty.parameters()} == {"meta"}
    assert [part.requires_grad for part in empty.parameters()] == [part.requires_grad for part in unet.parameters()]
    assert {part.device.type for part in unet.parameters()} == {"cpu"}
    empty.load_state_dict(unet.state_dict(), assign=True)
    given = torch.ones(1, 4, 6, 6), torch.tensor([3]), torch.ones(1, 2, 5)
    assert torch.equal(empty(*given).sample, unet(*given).sample)


def test_what_is_no_part_stays_as_it_is():
    model = nn.Linear(2, 3)
    state = {"a": [model.weight, (1, 2.5)], "b": {"c": "said"}}
    assert not fsdp.sharded(model)
    assert fsdp.whole(state) == state and fsdp.whole(state, keep=False) == state
    assert fsdp.part_of(model.bias, model.bias) is model.bias
    moments = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 2)}}, "param_groups": []}
    assert fsdp.parts_of(moments, list(model.parameters())) == moments
    assert fsdp.total(torch.tensor(2.5)) == 2.5


@pytest.mark.parametrize(("processes", "asked", "expected"), [(2, "auto", True), (2, False, True), (1, "auto", False)])
def test_weights_are_cut_where_there_are_several_processes(monkeypatch, processes, asked, expected):
    monkeypatch.setattr(device, "size", lambda: processes)
    runtime = Runtime(compile=False, channels_last=asked, fsdp=True, **RUNTIME)
    last = asked == "auto" and not expected  # tensors are cut as they lie
    assert place(runtime, "cuda:1") == Placement("cuda:1", False, last, fsdp=expected)


def test_channels_last_is_refused_with_it(monkeypatch):
    monkeypatch.setattr(device, "size", lambda: 2)
    with pytest.raises(UserError, match=r"^runtime\.channels_last: true does not go with runtime\.fsdp: true"):
        place(Runtime(compile=False, channels_last=True, fsdp=True, **RUNTIME), "cuda:0")
