import pytest
import torch
from conftest import DISTILLING, LATENT, TOKENS, WIDTH

from prunella.errors import UserError
from prunella.models.pipeline import load_unet
from prunella.params import Distill, validate_config
from prunella.tracking.training_estimate import TrainingEstimate
from prunella.training import memory_estimate
from prunella.training.memory_estimate import MemorySpec


@pytest.fixture
def coming(teacher) -> TrainingEstimate:
    config = {name: value for name, value in load_unet(teacher).config.items() if not name.startswith("_")}
    settings = validate_config(
        Distill, DISTILLING | {"steps": 11, "batch_size": 4, "gradient_accumulation_steps": 3}, "distill"
    )
    example = {"latents": (4, LATENT, LATENT), "states": (TOKENS, WIDTH)}
    return TrainingEstimate("distill", MemorySpec(config, config, example), settings, 4, 22, torch.device("cpu"))


def test_it_says_what_is_coming(coming, capsys):
    figures = coming.print_summary()
    assert figures["images"] == 132 and figures["epochs"] == 6
    said = capsys.readouterr().out
    assert said.startswith("distill: 132 images in 11 steps, 6.0 times each of 22 pairs; 4 at once; memory: about 0.")
    assert "(weights 0.03, gradients 0.03, optimizer 0.07, average 0.03, teacher 0.03, activations" in said
    assert "hardly" not in said


def test_of_pairs_that_are_not_there_yet_none_are_counted(coming, capsys):
    assert "epochs" not in coming._replace(num_samples=None).print_summary()
    assert capsys.readouterr().out.startswith("distill: 132 images in 11 steps; 4 at once; memory: about 0.")


def test_what_will_not_fit_is_said_before(coming, capsys, monkeypatch):
    monkeypatch.setattr(memory_estimate, "device_memory", lambda device: 10**8)
    coming.print_summary()
    assert "distill: that will hardly fit: " in (said := capsys.readouterr().out)
    assert "precision: bf16 saves 0.0" in said


def test_time_left_by_hand(coming, capsys):
    coming.print_eta([9.0, 2.0, 2.0, 2.0, 3.0], done=5)
    assert "distill: 2.00 s a step, 0:00:12 left" in capsys.readouterr().err


def test_running_out_of_memory_says_what_would_help(coming):
    said = r"(?s)out of memory: CUDA .*runtime\.micro_batch: 2 saves 0\.0"
    with pytest.raises(UserError, match=said), coming.explain_oom():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    refused = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes"
    with pytest.raises(UserError, match="out of memory: DefaultCPUAllocator"), coming.explain_oom():
        raise RuntimeError(refused)
    with pytest.raises(RuntimeError, match="something else"), coming.explain_oom():
        raise RuntimeError("something else")
