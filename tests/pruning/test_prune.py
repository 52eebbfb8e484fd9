import copy
import json
from typing import get_args

import pytest
import torch
import toyxl
from carving import KEPT, carved
from diffusers import UNet2DConditionModel
from known import SD15, SD21, SDXL

from prunella import STUDENTS, feature_pairs, prune, student_config
from prunella.errors import UserError
from prunella.models.pipeline import load_unet, to_storage_dtype
from prunella.params import FeatureMode
from prunella.profiling.cost import count_parameters
from prunella.pruning.prune import prune_to_folder
from prunella.training.feature_capture import capture_outputs

# Totals, down, mid and up of the published UNets (Segmind, Nota-NetsPresso and ETRI configs).
TOTALS = [
    ("sd-small", SD15, 579_384_964, "130.39 97.04 349.88"),
    ("bk-sdm-base", SD15, 579_384_964, "130.39 97.04 349.88"),
    ("bk-sdm-small", SD15, 482_346_884, "130.39 0.00 349.88"),
    ("sd-tiny", SD15, 323_384_964, "84.50 0.00 236.81"),
    ("bk-sdm-tiny", SD15, 323_384_964, "84.50 0.00 236.81"),
    ("sd-small", SD21, 583_480_964, "131.54 97.69 352.18"),
    ("bk-sdm-base", SD21, 583_480_964, "131.54 97.69 352.18"),
    ("bk-sdm-small", SD21, 485_787_524, "131.54 0.00 352.18"),
    ("sd-tiny", SD21, 326_825_604, "85.65 0.00 239.10"),
    ("bk-sdm-tiny", SD21, 326_825_604, "85.65 0.00 239.10"),
    ("ssd-1b", SDXL, 1_331_334_404, "405.87 31.14 887.00"),
    ("segmind-vega", SDXL, 745_225_604, "246.84 31.14 459.93"),
    ("koala-1b", SDXL, 1_161_184_324, "270.66 274.09 609.11"),
    ("koala-700m", SDXL, 782_822_724, "235.90 0.00 539.60"),
]
TEACHERS = [(SD15, 859_520_964), (SD21, 865_910_724), (SDXL, 2_567_463_684)]


def on_meta(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


@pytest.mark.parametrize(("config", "total"), TEACHERS)
def test_totals_of_the_teachers(config, total):
    assert on_meta(config).num_parameters() == total


@pytest.mark.parametrize(("student", "config", "total", "millions"), TOTALS)
def test_totals_of_the_students(student, config, total, millions):
    counted = count_parameters(prune(on_meta(config), STUDENTS[student]))
    assert counted.pop("params") == total
    assert " ".join(f"{count / 1e6:.2f}" for count in counted.values()) == millions


def test_every_student_has_its_totals_tested():
    assert {name for name, *_ in TOTALS} == set(STUDENTS) == set(KEPT)


def test_vega_with_the_wrong_mid_block_is_another_model():
    wrong = student_config(STUDENTS["segmind-vega"], SDXL) | {"mid_block_type": "UNetMidBlock2DCrossAttn"}
    assert on_meta(wrong).num_parameters() == 849_157_764


@pytest.fixture(scope="module")
def whole(teacher):
    return load_unet(teacher)


@pytest.fixture(scope="module")
def distinct(whole, xl_teacher):
    """Teachers by family, no two elements of which are the same by any likelihood: norms are random too."""
    teachers = {"sd": copy.deepcopy(whole), "sdxl": load_unet(xl_teacher)}
    source = torch.Generator().manual_seed(1)
    for teacher in teachers.values():
        for weight in teacher.parameters():
            weight.data = torch.randn(weight.shape, generator=source) * 0.1
    return teachers


@pytest.mark.parametrize("student", sorted(KEPT))
def test_every_weight_is_the_one_that_taking_modules_out_by_hand_leaves(distinct, student):
    teacher = distinct[STUDENTS[student].family]
    expected, weights = carved(teacher, KEPT[student]), prune(teacher, STUDENTS[student]).state_dict()
    assert set(weights) == set(expected)
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


@pytest.mark.parametrize(
    ("student", "lists", "siblings"),
    [
        ("sd-small", "up_blocks.1.attentions", [0, 1]),
        ("ssd-1b", "up_blocks.0.attentions.0.transformer_blocks", [0, 1, 2, 3]),
        ("segmind-vega", "mid_block.resnets", [1]),
    ],
)
def test_a_sibling_of_the_same_shape_would_be_caught(distinct, student, lists, siblings):
    teacher = distinct[STUDENTS[student].family]
    wrong, weights = carved(teacher, KEPT[student] | {lists: siblings}), prune(teacher, STUDENTS[student]).state_dict()
    assert {name: value.shape for name, value in wrong.items()} == {name: v.shape for name, v in weights.items()}
    assert not all(torch.equal(weights[name], wrong[name]) for name in wrong)


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


@pytest.fixture
def inputs(noise):
    """What the toy UNets of each family are called with."""
    added = {"text_embeds": noise(2, toyxl.POOLED), "time_ids": torch.tensor([[32, 40, 0, 4, 32, 32]]).expand(2, -1)}
    sd = {"encoder_hidden_states": noise(2, 19, 24)}
    xl = {"encoder_hidden_states": noise(2, 19, sum(toyxl.WIDTHS)), "added_cond_kwargs": added}
    latents, timesteps = noise(2, 4, 8, 8), torch.tensor([3, 700])
    return {"sd": (latents, timesteps, sd), "sdxl": (latents, timesteps, xl)}


@pytest.mark.parametrize("mode", get_args(FeatureMode))
@pytest.mark.parametrize("student", sorted(KEPT))
def test_compared_features_have_the_same_shape(distinct, inputs, student, mode):
    plan = STUDENTS[student]
    pairs, teacher = feature_pairs(plan, mode), distinct[plan.family]
    small = prune(teacher, plan)
    latents, timesteps, rest = inputs[plan.family]
    with (
        torch.no_grad(),
        capture_outputs(teacher, {p.teacher for p in pairs}) as a,
        capture_outputs(small, {p.student for p in pairs}) as b,
    ):
        teacher(latents, timesteps, **rest)
        small(latents, timesteps, **rest)
    for pair in pairs:
        assert a[pair.teacher].shape == b[pair.student].shape, pair


@pytest.mark.parametrize("student", sorted(KEPT))
def test_what_is_saved_draws_the_same_in_stock_diffusers(distinct, inputs, tmp_path, student):
    plan = STUDENTS[student]
    small = prune(distinct[plan.family], plan)
    to_storage_dtype(small, "fp32").save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path).eval()
    for weight in loaded.parameters():  # mapped from the file they are aligned otherwise, which changes last bits
        weight.data = weight.data.clone()
    latents, timesteps, rest = inputs[plan.family]
    with torch.no_grad():
        assert torch.equal(loaded(latents, timesteps, **rest).sample, small(latents, timesteps, **rest).sample)
    config = json.loads((tmp_path / "config.json").read_text())
    expected = student_config(plan, dict(distinct[plan.family].config))
    assert {name: config.get(name) for name in expected} == json.loads(json.dumps(expected))
    assert all(value.is_contiguous() for value in small.state_dict().values())


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
    from prunella.pruning.plan import SHIPPED_PLANS

    kept, all_of_it = prune_to_folder(params.prune, teacher, SHIPPED_PLANS / "sd-small.yaml", tmp_path / "sd-small")
    assert all_of_it == whole.num_parameters()
    assert kept == load_unet(tmp_path / "sd-small").num_parameters() < all_of_it
