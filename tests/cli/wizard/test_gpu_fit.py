"""What fits into a GPU, of the toy teacher's students: megabytes, and a batch of three."""

import pytest
from conftest import DISTILLING

from prunella import STUDENTS
from prunella.cli.wizard.checkpoint import detect_checkpoint
from prunella.cli.wizard.gpu_fit import MEMORY_SAVERS, _make_distill_memory_spec, fit_to_gpu
from prunella.errors import UserError
from prunella.params import Distill
from prunella.training.memory_estimate import GB, USABLE_FRACTION, estimate_memory

SETTINGS = Distill(**DISTILLING | {"batch_size": 7})
PLAN = STUDENTS["sd-tiny"]


@pytest.fixture(scope="module")
def least(teacher):
    """A function from a count of examples, and what is given up, to the GB of the smallest GPU that takes them."""
    subject = _make_distill_memory_spec(PLAN, detect_checkpoint(str(teacher)), SETTINGS)

    def least(at_once: int, change: dict) -> float:
        return (
            estimate_memory(subject, SETTINGS.model_copy(update=change), at_once).total / GB / USABLE_FRACTION * 1.0001
        )

    return least


def fitted(teacher, memory: float) -> tuple[int, dict]:
    found = fit_to_gpu(PLAN, detect_checkpoint(str(teacher)), SETTINGS, memory)
    assert found.memory_gb <= USABLE_FRACTION * memory
    return found.micro_batch, found.memory_savers


def test_nothing_is_given_up_where_a_few_fit(teacher, least):
    plain, again, _ = MEMORY_SAVERS
    assert least(1, again) < least(1, plain) < least(4, plain)
    assert fitted(teacher, least(7, plain)) == (7, plain)
    assert fitted(teacher, least(4, plain)) == (4, plain)


def test_the_forward_pass_runs_twice_where_only_three_would_fit_else(teacher, least):
    plain, again, eight = MEMORY_SAVERS
    at_once, given_up = fitted(teacher, least(3, plain))
    assert given_up == again and at_once > 3
    at_once, given_up = fitted(teacher, least(1, again))
    assert (at_once, given_up) == (1, again)  # and no moments of eight bits, which are another optimizer
    assert fitted(teacher, least(1, eight)) == (1, eight)


def test_what_fits_no_way_is_said_with_what_would(teacher, least):
    memory = least(1, MEMORY_SAVERS[-1]) / 1.0002
    with pytest.raises(
        UserError, match=r"sd-tiny needs a GPU of 1 GB, even with one.*no other student of this teacher fits"
    ):
        fitted(teacher, memory)
    with pytest.raises(UserError, match=r"bk-sdm-base needs a GPU.*what would do: .*sd-tiny"):
        fit_to_gpu(STUDENTS["bk-sdm-base"], detect_checkpoint(str(teacher)), SETTINGS, least(1, MEMORY_SAVERS[-1]))
