import pytest
from benches import toy_setting
from conftest import DISTILLING

from prunella.bench.healing_trials import CONSTANT_RATE_SETTINGS, TRIALS, run_healing_trial
from prunella.params import Distill, validate_config


@pytest.fixture
def setting(teacher, latents):
    return toy_setting(validate_config(Distill, DISTILLING, "distill"), teacher, latents, prompts=3)


def test_a_trial_differs_by_its_change_alone_and_is_measured(setting):
    plain = run_healing_trial(setting, "sd-tiny", "as it is", 3, 0)
    assert CONSTANT_RATE_SETTINGS.items() <= plain.items() and plain["steps"] == 3
    assert plain["composition"]["n"] == len(plain["verdicts"]) == 3
    quick = setting._replace(benchmark=setting.benchmark.model_copy(update={"prompts": 0}))
    again, without = (run_healing_trial(quick, "sd-tiny", name, 3, 0) for name in ("as it is", "no features"))
    assert again["output"] == plain["output"] != without["output"] and "verdicts" not in again


@pytest.mark.parametrize("name", TRIALS)
def test_every_trial_is_a_distillation(name):
    assert validate_config(Distill, DISTILLING | CONSTANT_RATE_SETTINGS | TRIALS[name], "distill")
