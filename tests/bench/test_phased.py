import json

import pytest
from benches import toy_setting
from conftest import DISTILLING, TUNING

from prunella.bench import phased
from prunella.bench.phased import PHASE_METHODS, PhasesBenchmark, build_phases_table, run_phases_benchmark
from prunella.cli import bench_phases
from prunella.models.pipeline import load_unet
from prunella.params import Distill, Finetune, validate_config
from prunella.profiling.cost import count_macs
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS
from prunella.pruning.progressive import plan_at_fraction


@pytest.fixture
def what(teacher, latents, tmp_path, monkeypatch) -> PhasesBenchmark:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    setting = toy_setting(validate_config(Distill, DISTILLING, "distill"), teacher, latents, prompts=1)
    tuning = validate_config(Finetune, TUNING | {"steps": 1}, "finetune")
    return PhasesBenchmark(setting, tuning, "sd-tiny", 9, tmp_path / "rows.jsonl", tmp_path / "work", {"command": "c"})


@pytest.mark.slow
def test_ways_cost_as_much_as_one_training_and_are_run_once(what, monkeypatch):
    rows = list(run_phases_benchmark(what, ["at once", "progressive"], [4]))
    config = dict(load_unet(what.setting.teacher_dir).config)
    teacher, plan = count_macs(config)["macs"], STUDENTS["sd-tiny"]
    costs = [
        teacher + 3 * count_macs(student_config(plan_at_fraction(plan, cuts), config))["macs"]
        for cuts in (0.4, 0.8, 1.0)
    ]
    assert rows[0]["steps"] == [9] and rows[1]["steps"] == [round(3 * costs[2] / cost) for cost in costs]
    assert rows[0]["tflop"] == pytest.approx(2 * 9 * costs[2] * 3 / 1e12, abs=6e-4)
    assert all(row["output"] > 0 and row["task"] > 0 and row["command"] == "c" for row in rows)
    monkeypatch.setattr(phased, "train_phase_method", None)
    assert list(run_phases_benchmark(what, ["at once", "progressive"], [4])) == rows
    assert [json.loads(line) for line in what.out.read_text().splitlines()] == rows


@pytest.mark.slow
def test_the_second_teacher_is_made_of_the_first_and_teaches(what):
    one, two, alone = run_phases_benchmark(
        what._replace(steps=2), ["at once", "two teachers", "second teacher alone"], [0]
    )
    assert two["steps"] == [1, 1] and len({row["output"] for row in (one, two, alone)}) == 3
    made, first = load_unet(what.work_dir / "second"), load_unet(what.setting.teacher_dir)
    assert made.config["down_block_types"] == first.config["down_block_types"]
    assert (made.conv_in.weight - first.conv_in.weight).abs().sum() > 0


def test_the_command_knows_all_ways():
    assert list(PHASE_METHODS) == bench_phases.PHASE_METHODS


def test_the_table_pairs_seeds():
    def row(way, seed, output, settings="a"):
        told = {"student": "sd-tiny", "way": way, "seed": seed, "settings": settings, "steps": [3, 4], "tflop": 1.5}
        return told | {"output": output, "task": 2 * output}

    rows = [row("at once", 0, 0.1), row("at once", 1, 0.2), row("progressive", 0, 0.2), row("progressive", 1, 0.4)]
    assert build_phases_table([*rows, row("progressive", 0, 9.0, settings="b")])[1:] == [
        ["sd-tiny", "at once", "3 + 4", "1.50", "2", "0.1000–0.2000", "", ""],
        ["sd-tiny", "progressive", "3 + 4", "1.50", "3", "0.2000–9.0000", "2.00 (2.00–2.00)", "2.00 (2.00–2.00)"],
    ]
