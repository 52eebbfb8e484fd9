import json

import pytest
from benches import toy_setting
from conftest import DISTILLING

from prunella.bench.evidence import read_rows
from prunella.bench.healing import EvidenceLedger, heal, make_healing_settings
from prunella.bench.setting import ExperimentSetting
from prunella.params import Distill, validate_config


@pytest.fixture
def setting(teacher, latents) -> ExperimentSetting:
    distill = make_healing_settings(validate_config(Distill, DISTILLING, "distill"), 1e-3, 0.9)
    return toy_setting(distill, teacher, latents, prompts=3)


def test_every_milestone_is_a_row_and_is_measured_once(setting, tmp_path):
    out, work = tmp_path / "healing.jsonl", tmp_path / "work"
    rows = list(heal(setting, "sd-tiny", 3, [1, 3], [0, 3], out, work))
    assert [(row["student"], row["seed"], row["step"]) for row in rows] == [
        ("teacher", 0, 0),
        ("sd-tiny", 3, 0),
        ("sd-tiny", 3, 1),
        ("sd-tiny", 3, 3),
    ]
    assert ["verdicts" in row for row in rows] == [True, True, False, True]
    assert all(len(row["verdicts"]) == 3 for row in rows if "verdicts" in row)
    written = out.read_text()
    longer = list(heal(setting, "sd-tiny", 3, [1, 3, 5], [0, 3], out, work))
    assert [row["step"] for row in longer] == [0, 0, 5]  # it goes on from step 3
    assert out.read_text().startswith(written)  # nothing is measured again
    straight = list(heal(setting, "sd-tiny", 3, [1, 3, 5], [], tmp_path / "other.jsonl", tmp_path / "anew"))
    assert straight[-1]["output"] == longer[-1]["output"]  # going on gives what one training gives


def test_another_setting_is_another_row(tmp_path):
    first, second = (EvidenceLedger(tmp_path / "rows.jsonl", name) for name in ("a", "b"))
    assert first.load_or_measure("sd-tiny", 0, 1, lambda: {"output": 1.0})["output"] == 1.0
    assert second.load_or_measure("sd-tiny", 0, 1, lambda: {"output": 2.0})["output"] == 2.0
    assert first.load_or_measure("sd-tiny", 0, 1, lambda: {"output": 3.0})["output"] == 1.0


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = json.dumps({"student": "sd-tiny", "seed": 0, "step": 1, "settings": "a", "output": 1.0})
    path.write_text(whole + "\n" + whole[:20])
    assert EvidenceLedger(path, "a").load_or_measure("sd-tiny", 0, 2, lambda: {"output": 2.0})["output"] == 2.0
    assert [row["output"] for row in read_rows(path)] == [1.0, 2.0]
