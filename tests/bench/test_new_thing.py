import json
import shutil

import pytest
from conftest import ROOT

from prunella.bench.new_thing import (
    BASELINE_METHOD,
    TRAINING_SERIES,
    SubjectCase,
    build_subject_table,
    make_subject_scenes,
    measure_subject_finetuning,
    write_subject_images,
)
from prunella.scenes.generator import render_scene
from prunella.scenes.judge import judge_image

SETTINGS = {"method": "lora", "steps": 1, "batch_size": 2, "caption_keywords": [], "lr_warmup_steps": 0}


@pytest.fixture
def case(pruned_tiny, tmp_path, monkeypatch) -> SubjectCase:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return SubjectCase(pruned_tiny, ROOT / "data" / "arrow", ROOT / "data" / "scenes.yaml", tmp_path / "work", "cpu")


def test_the_shipped_pictures_are_those_that_are_described(case, tmp_path):
    own = case._replace(thing=tmp_path / "arrow")
    own.thing.mkdir()
    shutil.copy(case.thing / "scenes.yaml", own.thing)
    write_subject_images(own, 20)
    assert case.subject_claim == ("arrow", "shape")
    for path in sorted(own.thing.iterdir()):
        assert path.read_bytes() == (case.thing / path.name).read_bytes(), path.name


def test_the_judge_sees_the_thing_in_every_rendered_scene(case):
    for scene, text, rng in make_subject_scenes(case.vocabulary, "arrow", TRAINING_SERIES, 30):
        assert all(judge_image(render_scene(scene, case.vocabulary, rng), text, case.vocabulary).values())


def test_a_row_says_of_each_picture_whether_it_is_right(case):
    before, after = (measure_subject_finetuning(case, changes, (3, 4), 1, 2.0) for changes in ({}, SETTINGS))
    assert (before["method"], after["method"], after["pairs"], after["steps"]) == (BASELINE_METHOD, "lora", 18, 1)
    assert [len(row[key]) for row in (before, after) for key in ("thing", "old")] == [3, 4, 3, 4]
    json.dumps([before, after])


def test_the_table_compares_with_the_same_student_before():
    found = [
        {"student": "a", "method": BASELINE_METHOD, "thing": [0, 0], "old": [1, 0, 1, 0]},
        {"student": "a", "method": "lora", "steps": 9, "thing": [1, 0], "old": [0, 0, 1, 0]},
        {"student": "a", "method": "full", "steps": 9, "thing": [1, 0], "old": [0, 0]},
    ]
    head, none, lora, full = build_subject_table(found)
    assert full[-1].startswith("-0.500 (")  # of the first two
    assert none[:3] == ["a", BASELINE_METHOD, "–"] and none[-1] == "–"
    assert lora[3].startswith("0.500 (") and lora[3].endswith("n = 2") and lora[-1].startswith("-0.250 (")
    assert len(head) == len(lora)
