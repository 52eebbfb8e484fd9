"""A published student as the teacher at toy size: sd-tiny is made from sd-small and learns from it."""

import csv
import shutil
from pathlib import Path

import pytest
from carving import carved
from conftest import DISTILLING
from diffusers import UNet2DConditionModel

from prunella.compute.device import Placement
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill, validate_config
from prunella.pruning.mapping import FeaturePair
from prunella.pruning.plan import SHIPPED_PLANS
from prunella.pruning.prune import prune_to_folder
from prunella.training.data import iter_heldout_batches
from prunella.training.distill import distill
from prunella.training.losses import DistillationLoss
from prunella.training.validate import evaluate_loss

TINY = SHIPPED_PLANS / "sd-tiny.yaml"
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
BY_HAND = {"down_blocks.2.downsamplers": [], "down_blocks": [0, 1, 2], "up_blocks": [1, 2, 3], "mid_block": []}


@pytest.fixture(scope="module")
def small(params, teacher, tmp_path_factory) -> Path:
    """sd-small of the toy teacher, as somebody has published it: without a plan beside it."""
    folder = tmp_path_factory.mktemp("published") / "small-sd"
    prune_to_folder(params.prune, teacher, SHIPPED_PLANS / "sd-small.yaml", folder)
    (folder / "unet" / "plan.yaml").unlink()
    return folder


def by_hand(small: Path, out: Path) -> Path:
    """sd-tiny of that, its config written by hand and its modules taken out by hand."""
    shutil.copytree(small, out)
    unet = load_unet(small, keep_dtype=True)
    config = dict(unet.config) | {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        "mid_block_type": None,
        "block_out_channels": unet.config.block_out_channels[:3],
        "attention_head_dim": unet.config.attention_head_dim[:3],
    }
    tiny = UNet2DConditionModel.from_config({name: each for name, each in config.items() if name[0] != "_"})
    tiny.load_state_dict(carved(unet, BY_HAND))
    tiny.to(unet.dtype).save_pretrained(out / "unet")
    shutil.copy(TINY, out / "unet" / "plan.yaml")
    return out


def test_it_learns_as_if_it_had_been_pruned_by_hand(params, small, latents, tmp_path, monkeypatch):
    students = {"ours": tmp_path / "ours", "by-hand": by_hand(small, tmp_path / "by-hand")}
    prune_to_folder(params.prune, small, TINY, students["ours"])
    learning = validate_config(Distill, DISTILLING | {"features": "block-segmind", "storage": "fp32"}, "distill")
    found = {}
    for name, student in students.items():
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / f"{name}-root"))
        out, curves = tmp_path / f"{name}-distilled", tmp_path / f"{name}-curves"
        given = {"teacher": small, "latents": latents, "student": student, "out": out, "curves": curves}
        distill(learning, **given, placement=Placement(), checkpoint_every=5)
        found[name] = (out / WEIGHTS).read_bytes()
    assert found["ours"] == found["by-hand"]
    assert found["ours"] != (students["ours"] / WEIGHTS).read_bytes()
    # The terms before the first step, of features that are named here.
    outer, up = ["down_blocks.0", "down_blocks.1"], ["up_blocks.0", "up_blocks.1", "up_blocks.2"]
    pairs = [FeaturePair(name, name, name) for name in outer]
    pairs.append(FeaturePair("down_blocks.2", "down_blocks.2", "up_blocks.0"))
    pairs += [FeaturePair(name, name, f"up_blocks.{number + 1}") for number, name in enumerate(up)]
    scheduler = load_scheduler(small)
    loss = DistillationLoss(load_unet(small), pairs, scheduler, learning)
    batches = iter_heldout_batches(open_latents(latents, small, "cpu")[1], learning.batch_size, 1000)
    expected = evaluate_loss(load_unet(students["by-hand"]), loss, batches)
    with (tmp_path / "ours-curves" / "heldout.csv").open() as file:
        before = next(csv.DictReader(file))
    assert before["step"] == "0"
    features = {name: value for name, value in before.items() if name.startswith("feature/")}
    assert set(features) == {f"feature/{pair.name}" for pair in pairs}
    for name in ("output", *features):
        assert float(before[name]) == pytest.approx(expected[name], rel=1e-5)
