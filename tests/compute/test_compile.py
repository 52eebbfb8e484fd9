from collections import Counter

import pytest
import torch
from conftest import LATENT, TOKENS, WIDTH
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from prunella.compute import compile
from prunella.compute.compile import compile_function, compile_regions, disable_compile
from prunella.errors import UserError
from prunella.models.pipeline import load_unet
from prunella.training.losses import feature_error


class Regions:
    """A backend that counts the regions it compiles, and runs each under a name."""

    def __init__(self):
        self.compiled = 0

    def __call__(self, graph, inputs):
        self.compiled += 1

        def run(*given):
            with torch.profiler.record_function("region"):
                return graph.forward(*given)

        return run


def outside(call) -> Counter:
    """The operators that run in no region, by name."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        call()
    return Counter(event.name for event in profiler.events() if event.cpu_parent is None and "aten::" in event.name)


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing that other tests have compiled counts here."""
    torch._dynamo.reset()


def inputs(side: int = LATENT, batch: int = 2) -> tuple:
    return torch.randn(batch, 4, side, side), torch.zeros(batch), torch.randn(batch, TOKENS, WIDTH)


def test_the_largest_parts_without_a_tap_inside_are_compiled(teacher):
    unet = load_unet(teacher)
    with compile_regions(unet, ["up_blocks.1", "mid_block.attentions.0.transformer_blocks.0.attn1"], "eager") as names:
        # A stage whose output is tapped is a part, and so is one without a tap.
        assert {"down_blocks.0", "up_blocks.3", "mid_block.resnets.0"} < set(names)
        # Where a tap is inside, its parts are.
        assert "mid_block" not in names and "mid_block.attentions.0" not in names
        assert "mid_block.attentions.0.transformer_blocks.0" not in names
        assert "mid_block.attentions.0.transformer_blocks.0.attn1" in names
        assert "mid_block.attentions.0.transformer_blocks.0.ff" in names
        assert not any(a != b and b.startswith(f"{a}.") for a in names for b in names)
        assert all("forward" in vars(unet.get_submodule(name)) for name in names)
    assert not any("forward" in vars(module) for module in unet.modules())


def test_an_upsampler_is_a_part_of_its_own(teacher):
    with compile_regions(load_unet(teacher), [], "eager") as names:
        assert "up_blocks.1" not in names and "up_blocks.3" in names  # the last stage has none
        assert {"up_blocks.1.upsamplers.0", "up_blocks.1.resnets.0", "up_blocks.1.attentions.0"} < set(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which has many
def test_before_an_upsampler_gradients_are_not_lost_in_bf16():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.resnet = ResnetBlock2D(in_channels=32, out_channels=32, temb_channels=8, groups=8)
            self.upsampler = Upsample2D(32, use_conv=True)

        def forward(self, x, t):
            return self.upsampler(self.resnet(x, t))

    torch.manual_seed(0)
    both, x, t = Both(), torch.randn(3, 32, 4, 4), torch.randn(3, 8)

    def gradients() -> list:
        both.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            both(x, t).float().square().mean().backward()
        return [part.grad.clone() for part in both.parameters()]

    expected = gradients()
    with compile_regions(both, []) as names:
        assert names == ["resnet", "upsampler"]
        for ours, theirs in zip(gradients(), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=0.05, atol=0.05 * theirs.abs().max())


def test_parts_that_run_again_are_not_inside_of_one(teacher):
    unet = load_unet(teacher)
    unet.enable_gradient_checkpointing()
    with compile_regions(unet, [], "eager") as names:
        assert "down_blocks.0" not in names
        assert {"down_blocks.0.resnets.0", "down_blocks.0.attentions.0.transformer_blocks.0"} <= set(names)


def test_many_layers_alike_are_compiled_once(teacher, monkeypatch):
    unet = load_unet(teacher)
    monkeypatch.setattr(compile, "MAX_LAYERS_PER_REGION", 1)
    with compile_regions(unet, [], "eager") as names:
        assert "down_blocks.0" not in names and "down_blocks.0.attentions.0" in names and "down_blocks.3" in names
    monkeypatch.setattr(compile, "MAX_LAYERS_PER_REGION", 0)
    with compile_regions(unet, [], "eager") as names:
        assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1" in names


@pytest.mark.parametrize(
    ("tapped", "most"), [("down_blocks.0", 35), pytest.param("down_blocks.0.resnets.0", 40, marks=pytest.mark.slow)]
)
def test_what_is_left_outside_is_little(teacher, tapped, most):
    unet, regions, given = load_unet(teacher).requires_grad_(False), Regions(), inputs()
    with compile_regions(unet, [tapped], regions), torch.no_grad():
        unet(*given)
        left = outside(lambda: unet(*given))
    # Time embedding, first and last convolution, last norm, skips of stages with an upsampler; no norm, no product.
    assert left["aten::conv2d"] == 2 and left["aten::group_norm"] == 1, left
    assert sum(left.values()) <= most, left
    with torch.no_grad():
        every = outside(lambda: unet(*given))
    assert every["aten::conv2d"] > 40 and sum(every.values()) > 8 * most


@pytest.mark.slow
def test_several_sizes_share_their_code(teacher):
    unet, regions = load_unet(teacher).requires_grad_(False), Regions()
    with compile_regions(unet, [], regions, num_sizes=3), torch.no_grad():
        unet(*inputs(16, batch=5))  # 5: two sizes that happen to be equal would be taken for one
        made = regions.compiled
        for side in (24, 32):
            x = inputs(side, batch=5)
            ours = unet(*x).sample
            with disable_compile():
                assert torch.equal(ours, unet(*x).sample)
    assert regions.compiled == made > 5


def test_more_shapes_than_are_compiled_stop_the_run(teacher, monkeypatch):
    unet = load_unet(teacher).requires_grad_(False)
    monkeypatch.setattr(compile, "MAX_VARIANTS", 2)
    said = r"torch.compile: a part of the UNet came in more than 2 shapes; runtime.compile: false runs without"
    with pytest.raises(UserError, match=said), compile_regions(unet, [], "eager"), torch.no_grad():
        for side in (8, 16, 24, 32):
            unet(*inputs(side))


@pytest.mark.parametrize("normalisation", ["none", "teacher"])
def test_a_features_error_is_one_region_for_all_sizes(normalisation):
    regions = Regions()
    one = compile_function(feature_error, regions)
    for shape in ((2, 3, 8, 6), (2, 5, 4, 7), (3, 3, 8, 9)):
        ours, theirs = torch.randn(shape, requires_grad=True), torch.randn(shape)
        assert torch.allclose(one(ours, theirs, normalisation), feature_error(ours, theirs, normalisation))
    assert regions.compiled == 1
    assert not outside(lambda: one(ours, theirs, normalisation))
    assert sum(outside(lambda: feature_error(ours, theirs, normalisation)).values()) >= 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which has many
def test_inductor_computes_the_same_also_under_checkpointing():
    torch.manual_seed(0)
    # Of groups of several channels: before a norm of single channels a bias has no gradient but rounding errors.
    block = nn.Sequential(ResnetBlock2D(in_channels=32, out_channels=32, temb_channels=8, groups=8))
    x, t = torch.randn(2, 32, 5, 5, requires_grad=True), torch.randn(2, 8)

    def gradients() -> list:
        block.zero_grad()
        torch.utils.checkpoint.checkpoint(block[0], x, t, use_reentrant=False).square().sum().backward()
        return [part.grad.clone() for part in block.parameters()]

    expected = gradients()
    with compile_regions(block, []) as names:
        assert names == ["0"]
        for ours, theirs in zip(gradients(), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())
        with disable_compile(), torch.no_grad():
            assert torch.equal(block[0](x, t), block[0](x, t))
