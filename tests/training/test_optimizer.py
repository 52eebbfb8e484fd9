import sys

import pytest
import torch
from conftest import LEARNING, TRAINING

from prunella.errors import UserError
from prunella.params import DiffusionTraining, Training, validate_config
from prunella.training.optimizer import make_adamw


def settings(**changes) -> Training:
    return validate_config(Training, TRAINING | changes, "settings")


def test_adamw_is_torchs_fused_one():
    optimizer = make_adamw([torch.nn.Parameter(torch.zeros(2))], settings(weight_decay=0.25))
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"] and optimizer.defaults["weight_decay"] == 0.25


def test_its_averages_are_those_that_are_asked_for():
    chosen = validate_config(DiffusionTraining, LEARNING | {"betas": [0.8, 0.95], "eps": 1e-6}, "settings")
    asked = make_adamw([torch.nn.Parameter(torch.zeros(2))], chosen).defaults
    assert (asked["betas"], asked["eps"]) == ((0.8, 0.95), 1e-6)
    of_torch = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).defaults
    shipped = validate_config(DiffusionTraining, LEARNING, "settings")
    assert (shipped.betas, shipped.eps) == (of_torch["betas"], of_torch["eps"])


def test_eight_bits_without_their_library_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(
        UserError, match="optimizer: adamw-8bit needs bitsandbytes, which is not installed: pip install"
    ):
        make_adamw([torch.nn.Parameter(torch.zeros(2))], settings(optimizer="adamw-8bit"))
