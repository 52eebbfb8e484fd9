import json

import pytest
from benches import toy_setting
from conftest import DISTILLING, SIDE

from prunella.bench.evidence import read_rows
from prunella.bench.setting import ExperimentSetting
from prunella.bench.teacher_made import (
    GENERATED,
    RENDERED,
    TrainingUnit,
    compare_arms,
    measure_unit,
    prepare_arm_latents,
    select_unmeasured_units,
)
from prunella.latents.shards import LatentDataset
from prunella.params import Distill, validate_config


@pytest.fixture
def setting(teacher, latents) -> ExperimentSetting:
    distill = validate_config(Distill, DISTILLING | {"steps": 2}, "distill")
    return toy_setting(distill, teacher, latents, prompts=2)


@pytest.mark.slow
def test_both_arms_learn_from_the_same_captions_and_are_measured_alike(setting, params, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folders = prepare_arm_latents(setting, params, [RENDERED, GENERATED], 2, tmp_path / "work")
    train, made = (LatentDataset(folders[arm], "train") for arm in (RENDERED, GENERATED))
    assert len(made) == len(train) - 1 and set(made.captions) <= set(train.captions)  # one is held out there
    assert made.shards[0].size == (SIDE, SIDE) and not made.get_batch([0])["std"].any()
    rows = []
    for arm, folder in folders.items():
        row = measure_unit(setting, TrainingUnit("sd-tiny", arm, 1), folder, 100, 3, tmp_path / "work")
        assert (row["student"], row["arm"], row["seed"], row["steps"]) == ("sd-tiny", arm, 1, 2)
        assert len(row["right"]) == 3 and set(row["right"]) <= {0, 1}
        rows.append(row)
    assert rows[0]["output"] != rows[1]["output"]
    (found,) = compare_arms(rows).values()
    assert found.ratios == [rows[1]["output"] / rows[0]["output"]] and found.composition.n == 3
    assert not list((tmp_path / "work").glob("sd-tiny*"))  # checkpoints of units that are done


def row(arm: str, seed: int, output: float, right: list[int]) -> dict:
    return {"student": "sd-tiny", "arm": arm, "seed": seed, "steps": 300, "output": output, "right": right}


def test_seeds_are_compared_in_pairs_and_what_is_done_is_not_waited_for(tmp_path):
    rows = [row(RENDERED, 0, 0.5, [1, 0, 0, 1]), row(GENERATED, 0, 0.25, [1, 1, 0, 1]), row(RENDERED, 1, 0.5, [0] * 4)]
    (tmp_path / "rows").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert read_rows(tmp_path / "rows") == rows and read_rows(tmp_path / "none") == []
    (found,) = compare_arms(rows).values()  # seed 1 has one arm alone
    assert found.ratios == [0.5] and (found.composition.value, found.composition.n) == (0.25, 4)
    units = [TrainingUnit("sd-tiny", arm, seed) for seed in (0, 1) for arm in (RENDERED, GENERATED)]
    assert list(select_unmeasured_units(rows, units, 300)) == [TrainingUnit("sd-tiny", GENERATED, 1)]
    assert len(list(select_unmeasured_units(rows, units, 200))) == 4
