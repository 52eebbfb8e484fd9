"""SDXL from end to end, on a toy of its shape: encode, prune, distil, measure what it costs."""

import pytest
import torch
from conftest import DISTILLING, TUNING
from diffusers import DiffusionPipeline

from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill, Finetune, validate_config
from prunella.profiling.cost import count_macs
from prunella.pruning.plan import SHIPPED_PLANS
from prunella.pruning.prune import prune_to_folder
from prunella.sampling.generate import generate
from prunella.training.data import iter_heldout_batches
from prunella.training.distill import distill
from prunella.training.finetune import finetune
from prunella.training.losses import DiffusionLoss
from prunella.training.validate import evaluate_loss

ALIKE = [pytest.param(name, marks=pytest.mark.slow) for name in ("ssd-1b", "koala-1b", "koala-700m")]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_pairs_carry_size_conditioning(xl_latents):
    rows = LatentDataset(xl_latents, "heldout").get_batch(range(7))
    # The toy's pictures are 40 to 68 wide and 50 high, and cut to 32 × 32.
    assert {tuple(row[[0, 4, 5]].tolist()) for row in rows["sizes"]} == {(50, 32, 32)}
    assert rows["sizes"][:, 1].min() >= 40 and rows["sizes"][:, 1].max() <= 68


@pytest.mark.parametrize("student", ["segmind-vega", *ALIKE])
def test_a_student_learns_and_draws(student, params, xl_teacher, xl_latents, tmp_path):
    small, out, curves = tmp_path / "pruned", tmp_path / "distilled", tmp_path / "curves"
    prune_to_folder(params.prune, xl_teacher, SHIPPED_PLANS / f"{student}.yaml", small)
    learning = validate_config(Distill, DISTILLING | {"steps": 12, "evaluate_every": 12}, "distill")
    report = distill(
        learning,
        teacher=xl_teacher,
        latents=xl_latents,
        student=small,
        out=out,
        curves=curves,
        placement=Placement(),
        checkpoint_every=5,
    )
    before = evaluate_loss(
        load_unet(small),
        DiffusionLoss(load_scheduler(small)),
        iter_heldout_batches(LatentDataset(xl_latents, "heldout"), 3, 1000),
    )
    assert report["heldout"]["task"] < before["task"]
    stock = DiffusionPipeline.from_pretrained(out)
    stock.set_progress_bar_config(disable=True)
    (picture,) = generate(stock, ["a small red heart"], steps=2, guidance=4.0, seed=0, batch_size=1)
    assert picture.shape == (32, 32, 3)


def test_finetuning_takes_an_sdxl_student(params, xl_teacher, xl_latents, tmp_path):
    small = tmp_path / "pruned"
    prune_to_folder(params.prune, xl_teacher, SHIPPED_PLANS / "segmind-vega.yaml", small)
    tuning = validate_config(Finetune, TUNING, "finetune")
    report = finetune(
        tuning,
        teacher=xl_teacher,
        latents=xl_latents,
        student=small,
        out=tmp_path / "out",
        curves=tmp_path / "curves",
        placement=Placement(),
        checkpoint_every=5,
    )
    assert report["pairs"] == 22


def test_size_and_pooled_text_reach_the_unet(xl_teacher, xl_latents):
    unet, task = load_unet(xl_teacher), DiffusionLoss(load_scheduler(xl_teacher))
    batch = next(iter_heldout_batches(LatentDataset(xl_latents, "heldout"), 3, 1000))
    with torch.no_grad():
        as_it_is = task.predict(unet, batch)
        for name in ("pooled", "sizes"):
            other = task.predict(unet, batch | {name: batch[name] + 1})
            assert not torch.allclose(as_it_is, other, atol=1e-6)


def test_its_costs_are_counted(xl_teacher):
    counted = count_macs(dict(load_unet(xl_teacher).config))
    assert 0 < counted["macs_conv_linear"] < counted["macs"]


def test_a_plan_of_the_other_family_is_refused(params, xl_teacher, tmp_path):
    with pytest.raises(UserError, match=r"family 'sd' .* this teacher is Stable Diffusion XL"):
        prune_to_folder(params.prune, xl_teacher, SHIPPED_PLANS / "sd-tiny.yaml", tmp_path / "out")
