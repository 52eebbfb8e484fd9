import json

import pytest
import together
import torch
import toygraph
from conftest import TRAINING

from prunella.compute import distributed
from prunella.errors import UserError

CONTENT = TRAINING | {"steps": 5, "batch_size": 4, "gradient_accumulation_steps": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict]:
    """What two processes saw."""
    out = tmp_path_factory.mktemp("together")
    toygraph.together(out, 2, together.__file__, json.dumps(CONTENT), out, CUDA_VISIBLE_DEVICES="")
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_learn_what_one_does_at_the_same_batch(both):
    assert both[0] == both[1]  # each knows the means over all
    alone = together.trained(CONTENT, 1)
    for (step, values), (_, expected) in zip(both[0]["rows"], alone["rows"], strict=True):
        assert values == pytest.approx(expected, rel=1e-5), step
    for row, expected in zip(both[0]["weight"], alone["weight"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


def test_two_processes_measure_what_one_does_to_the_bit(both):
    assert both[0]["measured"] == together.measured() == both[1]["measured"]
    assert both[0]["measured"]["order"] == [0, 1, 2, 3, 4]


def test_a_process_that_ends_before_all_are_there_is_said(monkeypatch):
    def gone(**_):
        raise torch.distributed.DistNetworkError("Failed to recv, got 0 bytes")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "Accelerator", gone)
    with pytest.raises(UserError, match=r"^another of the 2 processes ended before all had found one another"):
        distributed.get_accelerator("cpu")
