import pytest

from prunella.evaluation.differences import bin_timesteps, compare_models, compare_values, is_significant, select_values
from prunella.stats import Estimate

BINS = {"0-1": [0, 2], "2-3": [1]}


def test_bins_are_equally_wide():
    assert bin_timesteps([0, 249, 250, 999, 500, 749], 1000) == {
        "0-249": [0, 1], "250-499": [2], "500-749": [4, 5], "750-999": [3],
    }  # fmt: skip
    assert bin_timesteps([9, 0], 10) == {"0-1": [1], "2-4": [], "5-6": [], "7-9": [0]}


def test_differences_pair_by_pair_by_hand():
    after = {"output_error": [1.0, 4.0, 2.0], "composition": [True, None, True], "fid": [1.0]}
    before = {"output_error": [2.0, 7.0, 3.0], "composition": [False, True, True]}
    found = compare_values(after, before, BINS)
    assert list(found) == ["output_error", "composition", "output_error_by"]
    assert (found["output_error"]["value"], found["output_error"]["n"]) == (pytest.approx(-5 / 3, abs=1e-5), 3)
    assert (found["composition"]["value"], found["composition"]["n"]) == (0.5, 2)
    assert {name: (part["value"], part["n"]) for name, part in found["output_error_by"].items()} == {
        "0-1": (-1.0, 2), "2-3": (-3.0, 1),
    }  # fmt: skip


def test_only_an_interval_without_nothing_is_different():
    assert is_significant(Estimate(0.2, 10, 0.1, 0.3)) and is_significant(Estimate(-0.2, 10, -0.3, -0.1))
    assert not is_significant(Estimate(0.2, 10, 0.0, 0.4)) and not is_significant(Estimate(0.2, 9, 0.1, 0.3))


def test_a_shift_that_all_pairs_share_is_told_and_noise_is_not():
    hard = [float(i % 7) for i in range(40)]
    shifted = {"output_error": [value - 0.1 - 0.01 * (i % 3) for i, value in enumerate(hard)]}
    turned = {"output_error": [value + (-1) ** i for i, value in enumerate(hard)]}
    assert compare_values(shifted, {"output_error": hard}, {})["output_error"]["different"]
    assert not compare_values(turned, {"output_error": hard}, {})["output_error"]["different"]


def test_values_of_some_pairs_and_pictures():
    values = {"output_error": [1.0, 2.0, 3.0], "clip_score": [4.0, 5.0]}
    assert select_values(values, [2, 0], [1]) == {"output_error": [3.0, 1.0], "clip_score": [5.0]}


def test_students_are_compared_stage_by_stage_and_with_the_teacher():
    values = {
        "teacher": {"composition": [True, True]},
        "a/pruned": {"output_error": [1.0, 2.0], "composition": [False, True]},
        "b/pruned": {"output_error": [1.5, 3.0], "composition": [False, False]},
    }
    found = compare_models(values, ["a", "b"], ["pruned"], {"0-3": [0, 1]})
    assert list(found) == ["a/pruned - teacher", "b/pruned - teacher", "b/pruned - a/pruned"]
    assert found["a/pruned - teacher"]["composition"]["value"] == -0.5 and len(found["a/pruned - teacher"]) == 1
    assert found["b/pruned - a/pruned"]["output_error"]["value"] == 0.75
    assert found["b/pruned - a/pruned"]["output_error_by"]["0-3"]["n"] == 2
