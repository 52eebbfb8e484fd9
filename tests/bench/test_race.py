import json

import pytest
from benches import toy_setting
from conftest import DISTILLING

from prunella.bench import race as rooms
from prunella.bench.race import (
    OURS,
    PUBLISHED,
    PUBLISHED_LEARNING_RATE,
    PUBLISHED_WITH_ENCODING,
    TIMING,
    RaceContext,
    RaceSpec,
    build_race_table,
    collect_race_results,
    format_ratio_interval,
    run_race,
)
from prunella.models.pipeline import load_unet
from prunella.params import Distill, validate_config
from prunella.profiling.cost import count_macs
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS

STUDENT = "sd-tiny"


@pytest.fixture
def course(teacher, latents, tmp_path) -> RaceContext:
    ours = {"feature_normalization": "teacher", "lr_scheduler": "cosine", "lr_warmup_steps": 5, "batch_size": 2}
    distill = validate_config(Distill, DISTILLING | ours | {"learning_rate": 1e-3}, "distill")
    return RaceContext(
        toy_setting(distill, teacher, latents, prompts=1), STUDENT, tmp_path / "race.jsonl", {"command": "c"}
    )


def test_the_published_procedure_is_that_of_the_scripts_whatever_the_parameters_say(course):
    ours = course.setting.distill.model_copy(update={"snr_gamma": 5.0, "ema_decay": 0.9, "output_weight": 0.3})
    theirs = RaceSpec(7, 3, [], [], 0).make_published_settings(ours, PUBLISHED_LEARNING_RATE)
    assert (theirs.task_weight, theirs.output_weight, theirs.feature_weight) == (1, 1, 1)
    assert (theirs.feature_normalization, theirs.lr_scheduler, theirs.lr_warmup_steps) == ("none", "constant", 0)
    assert (theirs.learning_rate, theirs.weight_decay, theirs.max_grad_norm) == (5e-5, 0.01, 1.0)
    assert (theirs.snr_gamma, theirs.ema_decay, theirs.caption_dropout) == (None, 0, 0)
    assert (theirs.steps, theirs.batch_size, theirs.precision) == (7, 3, ours.precision)


def test_ours_of_another_length_warms_up_for_a_tenth_at_most(course):
    lengths = {
        steps: RaceSpec(1, 1, [], [], 0).make_our_settings(course.setting.distill, steps) for steps in (9, 20, 90)
    }
    assert {steps: (it.steps, it.lr_warmup_steps) for steps, it in lengths.items()} == {
        9: (9, 0),
        20: (20, 2),
        90: (90, 5),
    }
    assert lengths[9].model_dump(exclude={"steps", "lr_warmup_steps"}) == course.setting.distill.model_dump(
        exclude={"steps", "lr_warmup_steps"}
    )


def test_a_race_is_run_once(course, monkeypatch):
    monkeypatch.setattr(rooms, "TIMED_STEPS", 1)
    what = RaceSpec(1, 3, [1e-2], [1, 2], 1)
    rows = list(run_race(course, [4], what))
    assert [row["arm"] for row in rows][:3] == [PUBLISHED, PUBLISHED, OURS] and rows[-1]["arm"] == TIMING
    assert [row["learning_rate"] for row in rows[:2]] == [PUBLISHED_LEARNING_RATE, 1e-2]
    teacher = dict(load_unet(course.setting.teacher_dir).config)
    flop = 2 * count_macs(teacher)["macs"] + 6 * count_macs(student_config(STUDENTS[STUDENT], teacher))["macs"]
    assert rows[0]["examples"] == 3 and rows[0]["tflop"] == pytest.approx(3 * flop / 1e12, abs=1e-4)
    assert all(rows[-1][way] > 0 for way in (OURS, PUBLISHED, PUBLISHED_WITH_ENCODING))
    assert json.loads(course.out.read_text().splitlines()[0]) == rows[0] and rows[0]["command"] == "c"
    monkeypatch.setattr(rooms, "train_race_arm", None)
    monkeypatch.setattr(rooms, "time_race_round", None)
    assert list(run_race(course, [4], what)) == rows


def ending(arm: str, seed: int, steps: int, rate: float, output: float, batch: int = 8) -> dict:
    numbers = {
        "steps": steps,
        "batch_size": batch,
        "examples": steps * batch,
        "tflop": steps * batch / 100,
        "cpu_seconds": steps,
    }
    return {"student": STUDENT, "arm": arm, "seed": seed, "learning_rate": rate, "output": output, **numbers}


ROWS = [
    ending(PUBLISHED, 0, 100, PUBLISHED_LEARNING_RATE, 0.5, batch=32),
    ending(PUBLISHED, 0, 100, 1e-3, 0.2, batch=32),
    ending(PUBLISHED, 0, 100, 4e-3, 0.3, batch=32),  # another rate that was tried
    ending(OURS, 0, 20, 2e-3, 0.5),  # as low as 0.5
    ending(OURS, 0, 40, 2e-3, 0.21),
    ending(OURS, 0, 80, 2e-3, 0.19),
    ending(PUBLISHED, 1, 100, PUBLISHED_LEARNING_RATE, 0.5, batch=32),
    ending(PUBLISHED, 1, 100, 1e-3, 0.2, batch=32),
    ending(OURS, 1, 20, 2e-3, 0.51),
    ending(OURS, 1, 40, 2e-3, 0.2),
]
TIMES = {OURS: 0.2, PUBLISHED: 0.7, PUBLISHED_WITH_ENCODING: 1.0}
TAKEN = [{"student": STUDENT, "arm": TIMING, "round": n, "batch_size": 32, **TIMES} for n in (0, 1)]
TAKEN.append(TAKEN[0] | {"round": 2, OURS: 1.0})  # another program was busy


def test_a_finish_is_our_shortest_training_that_ends_no_higher():
    published, tuned = collect_race_results(ROWS + TAKEN)
    assert (published.learning_rate, tuned.learning_rate) == (PUBLISHED_LEARNING_RATE, 1e-3)
    assert [mine["steps"] for _, mine in published.rows_at_target] == [20, 40]
    assert [mine["steps"] for _, mine in tuned.rows_at_target] == [80, 40]
    assert tuned.compute_ratios("examples") == [5, 10] and tuned.compute_ratios("tflop") == [5, 10]
    assert tuned.compute_time_ratios(PUBLISHED) == pytest.approx([100 * 0.7 / (80 * 0.2), 100 * 0.7 / (40 * 0.2)])
    assert tuned.compute_time_ratios(PUBLISHED_WITH_ENCODING)[1] == pytest.approx(12.5)


def test_what_was_not_reached_has_no_ratio():
    _, best = build_race_table([row for row in ROWS if row["steps"] != 80])[1:]
    assert best[5:] == ["not reached", "", "", "", "", ""]
    _, whole = build_race_table(ROWS)[1:]  # no turns yet
    assert whole[3:7] == ["2", "0.2000", "40–80", "× 7.07 (0.09–578.04)"] and whole[9:] == ["", ""]


def test_the_interval_of_ratios_is_that_of_their_logarithms():
    assert format_ratio_interval([3.0]) == "3.00"
    assert format_ratio_interval([2.0, 2.0, 2.0]) == "2.00 (2.00–2.00)"
    # Logarithms of 1, e and e²: 1 ± 4.3027 / √3
    assert format_ratio_interval([1.0, 2.718281828, 7.389056099]) == "2.72 (0.23–32.59)"
