import json

import numpy as np
import pytest
import torch

from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.planning.importance import NUM_TIMESTEP_BINS, OutputError, bypass_layers
from prunella.planning.units import DropDeepest, DropLayer, ThinStage, plan_without
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.training.data import iter_heldout_batches
from prunella.training.losses import DiffusionLoss, per_sample_mse


def measuring(teacher, latents, family, work) -> OutputError:
    scheduler = load_scheduler(teacher)
    heldout = open_latents(latents, teacher, "cpu")[1]
    batches = iter_heldout_batches(heldout, 3, scheduler.config.num_train_timesteps, np.arange(5))
    return OutputError(load_unet(teacher), family, scheduler, batches, work)


@pytest.fixture
def measure(teacher, latents, tmp_path) -> OutputError:
    return measuring(teacher, latents, "sd", tmp_path)


def test_the_error_is_that_of_the_pruned_student(measure, teacher):
    task, expected = DiffusionLoss(load_scheduler(teacher)), []
    student = prune(load_unet(teacher), STUDENTS["sd-tiny"])
    with torch.no_grad():
        for batch in measure.batches:
            ours, theirs = task.predict(student, batch), task.predict(measure.teacher_unet, batch)
            expected += per_sample_mse(ours, theirs).tolist()
    error = measure.error_of_plan(STUDENTS["sd-tiny"])
    assert error.mean == pytest.approx(sum(expected) / 5, rel=1e-6) and error.mean > 0
    assert len(error.by_timestep) == NUM_TIMESTEP_BINS
    assert measure.error_of_plan(plan_without("sd", [])).mean == 0


def test_errors_by_timestep_are_means_of_each_bins_pairs(measure):
    measure.timesteps = [0, 249, 250, 999, 500]  # of 1000: two pairs in the first quarter
    assert measure._summarize([1.0, 3.0, 5.0, 7.0, 9.0]).by_timestep == (2.0, 5.0, 9.0, 7.0)
    measure.timesteps = [0, 1, 2, 3, 4]
    assert measure._summarize([1.0, 3.0, 5.0, 7.0, 9.0]) == (5.0, (5.0, None, None, None))


def test_what_is_measured_is_not_measured_again(measure, teacher, latents, tmp_path, monkeypatch):
    lacking = [[DropDeepest(1, "drop")], [ThinStage(3, (0,), (0, 2))]]
    first = measure.measure_many(lacking)
    again = measuring(teacher, latents, "sd", tmp_path)
    monkeypatch.setattr(again, "per_sample_errors", lambda student: pytest.fail("measured again"))
    assert again.measure_many(lacking) == first and len(list(tmp_path.iterdir())) == 2


def test_two_processes_share_the_work(measure, monkeypatch, tmp_path):
    lacking = [[DropDeepest(1, "drop")], [ThinStage(3, (0,), (0, 2))], [DropDeepest(0, "drop")]]
    seen = []
    real = measure.error_without
    monkeypatch.setattr(measure, "error_without", lambda units: seen.append(units) or real(units))
    monkeypatch.setattr("prunella.compute.distributed.rank", lambda: 1)
    monkeypatch.setattr("prunella.compute.distributed.world_size", lambda: 2)
    measure.measure_many(lacking)
    assert seen == [lacking[1], *lacking]  # its own share first, then all, of which most is there


def test_a_transformer_layer_alone_is_passed_over_as_in_a_pruned_student(xl_teacher, xl_latents, tmp_path):
    measure = measuring(xl_teacher, xl_latents, "sdxl", tmp_path)
    source = torch.Generator().manual_seed(1)
    for weight in measure.teacher_unet.parameters():  # the toy's own layers hardly do anything
        weight.data = torch.randn(weight.shape, generator=source) * 0.2
    gone = [DropLayer("up_blocks.0.attentions.1", 4)]
    quick = measure.error_without(gone)
    assert (
        quick.mean == pytest.approx(measure.measure_uncached(plan_without("sdxl", gone)).mean, rel=1e-4)
        and quick.mean > 0
    )
    mid = measure.error_without([DropLayer("mid_block.attentions.0", 9)])  # which no stock config can lack alone
    assert mid.mean > 0


def test_layers_are_back_afterwards(xl_teacher):
    unet = load_unet(xl_teacher)
    blocks = unet.up_blocks[0].attentions[0].transformer_blocks
    with (
        pytest.raises(KeyError),
        bypass_layers(unet, [DropLayer("up_blocks.0.attentions.0", 2), DropLayer("mid_block.attentions.0", 0)]),
    ):
        assert (
            len(unet.up_blocks[0].attentions[0].transformer_blocks)
            == len(unet.mid_block.attentions[0].transformer_blocks)
            == 9
        )
        raise KeyError
    assert unet.up_blocks[0].attentions[0].transformer_blocks is blocks and len(blocks) == 10


def test_a_kept_error_is_pair_by_pair(measure, tmp_path):
    measure.error_without([DropDeepest(0, "drop")])
    (path,) = tmp_path.iterdir()
    assert len(json.loads(path.read_text())) == 5
