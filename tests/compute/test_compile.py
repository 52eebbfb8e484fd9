import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from prunella.compute.compile import compiled, eager
from prunella.models.pipeline import load_unet


def test_the_largest_parts_without_a_tap_inside_are_compiled(teacher):
    unet = load_unet(teacher)
    with compiled(unet, ["up_blocks.1", "mid_block.attentions.0.transformer_blocks.0.attn1"], "eager") as names:
        assert "mid_block.resnets.0" in names and "down_blocks.0.attentions.0.transformer_blocks.0" in names
        # Where a tap is inside, its parts are.
        assert "mid_block.attentions.0.transformer_blocks.0" not in names
        assert "mid_block.attentions.0.transformer_blocks.0.attn1" in names
        assert "mid_block.attentions.0.transformer_blocks.0.ff" in names
        assert not any(a != b and b.startswith(f"{a}.") for a in names for b in names)
        assert all("forward" in vars(unet.get_submodule(name)) for name in names)
    assert not any("forward" in vars(module) for module in unet.modules())


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
    with compiled(block, []) as names:
        assert names == ["0"]
        for ours, theirs in zip(gradients(), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())
        with eager(), torch.no_grad():
            assert torch.equal(block[0](x, t), block[0](x, t))
