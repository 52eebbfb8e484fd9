import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15

from prunella import STUDENTS, feature_pairs, prune
from prunella.errors import UserError
from prunella.students.pruning import pruned
from prunella.teachers import load_unet
from prunella.training.taps import taps


@pytest.mark.parametrize(("student", "total"), [("sd-small", 579_384_964), ("sd-tiny", 323_384_964)])
def test_totals_of_sd15_on_the_meta_device(student, total):
    with torch.device("meta"):
        teacher = UNet2DConditionModel.from_config(SD15)
    assert teacher.num_parameters() == 859_520_964
    assert prune(teacher, STUDENTS[student]).num_parameters() == total


@pytest.fixture(scope="module")
def whole(teacher):
    return load_unet(teacher)


@pytest.mark.parametrize(
    ("student", "theirs", "ours"),
    [
        ("sd-small", "up_blocks.3.resnets.2.conv1.weight", "up_blocks.3.resnets.1.conv1.weight"),
        ("sd-small", "mid_block.attentions.0.proj_in.weight", "mid_block.attentions.0.proj_in.weight"),
        ("sd-tiny", "up_blocks.1.resnets.2.conv1.weight", "up_blocks.0.resnets.1.conv1.weight"),
        ("sd-tiny", "up_blocks.3.attentions.2.norm.weight", "up_blocks.2.attentions.1.norm.weight"),
        ("sd-tiny", "conv_out.bias", "conv_out.bias"),
    ],
)
def test_values_are_the_teachers(whole, student, theirs, ours):
    weights = prune(whole, STUDENTS[student]).state_dict()
    assert torch.equal(weights[ours], whole.state_dict()[theirs])


def test_the_teacher_is_left_untouched_and_shares_nothing(whole):
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    student = prune(whole, STUDENTS["sd-tiny"])
    for weight in student.parameters():
        torch.nn.init.zeros_(weight)
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert len(whole.down_blocks) == 4 and whole.mid_block is not None


def test_dtype_and_contiguity(whole):
    student = prune(whole.to(torch.float64), STUDENTS["sd-small"])
    whole.float()
    assert {value.dtype for value in student.state_dict().values()} == {torch.float64}
    assert all(value.is_contiguous() for value in student.state_dict().values())


@pytest.mark.parametrize("mode", ["block-bk", "block-segmind"])
@pytest.mark.parametrize("student", list(STUDENTS))
def test_compared_features_have_the_same_shape(whole, noise, student, mode):
    pairs, small = feature_pairs(STUDENTS[student], mode), prune(whole, STUDENTS[student])
    inputs = noise(2, 4, 8, 8), torch.tensor([3, 700]), noise(2, 19, 24)
    with torch.no_grad(), taps(whole, {p.teacher for p in pairs}) as a, taps(small, {p.student for p in pairs}) as b:
        whole(*inputs)
        small(*inputs)
    for pair in pairs:
        assert a[pair.teacher].shape == b[pair.student].shape, pair


def test_weights_that_do_not_fit_are_named():
    # Where widths differ between kept pairs, a copy would be of the wrong shape.
    odd = SD15 | {"block_out_channels": [32, 64, 96, 128], "cross_attention_dim": 24}
    with torch.device("meta"):
        teacher = UNet2DConditionModel.from_config(odd)
    with pytest.raises(UserError, match=r"student sd-tiny: up_blocks.0.* needs the teacher's up_blocks.1"):
        prune(teacher, STUDENTS["sd-tiny"])


def test_a_pruned_folder_is_a_pipeline_with_its_plan(pruned_tiny):
    names = sorted(path.name for path in pruned_tiny.iterdir())
    assert names == ["model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"]
    assert (pruned_tiny / "unet" / "plan.yaml").is_file()
    assert load_unet(pruned_tiny).mid_block is None


def test_pruned_says_how_much_is_left(params, teacher, whole, tmp_path):
    from prunella.params import CATALOGUE

    kept, all_of_it = pruned(params.prune, teacher, CATALOGUE / "sd-small.yaml", tmp_path / "sd-small")
    assert all_of_it == whole.num_parameters()
    assert kept == load_unet(tmp_path / "sd-small").num_parameters() < all_of_it
