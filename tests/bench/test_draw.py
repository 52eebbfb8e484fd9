import itertools
import json
import types

import pytest
import torch

from prunella.bench.draw import (
    WARMUP,
    GenerationCase,
    build_generation_table,
    make_latency_variants,
    make_random_unet_in_dtype,
    measure_generation,
)
from prunella.cli import main
from prunella.models.reference_configs import load_teacher_config
from prunella.profiling.energy import EnergyMeter
from prunella.pruning.plan import STUDENTS

EAGER = make_latency_variants(["fp32"], [False], [False], [1])


def case(teacher, **changes) -> GenerationCase:
    plans = {name: (STUDENTS[name], str(teacher)) for name in ("sd-small", "sd-tiny")}
    return GenerationCase(plans, EAGER, "cpu", rounds=2)._replace(**changes)


def test_variants_are_every_combination():
    made = make_latency_variants(["fp32", "bf16"], [False], [True], [1, 4])
    assert [each.title for each in made] == [
        "fp32 eager channels-last batch 1", "fp32 eager channels-last batch 4",
        "bf16 eager channels-last batch 1", "bf16 eager channels-last batch 4",
    ]  # fmt: skip


def test_a_teacher_has_one_row_and_each_student_its_own(teacher):
    rows = list(measure_generation(case(teacher)))
    assert [row["model"] for row in rows] == [str(teacher), "sd-small", "sd-tiny"]
    assert rows[0]["params"] > rows[1]["params"] > rows[2]["params"] and rows[0]["resolution"] == 32
    assert rows[0]["weights_mb"] == round(4 * rows[0]["params"] / 1e6, 1)  # fp32
    assert rows[0]["unet_step_speedup"] == {"value": 1.0, "n": 2, "low": 1.0, "high": 1.0}
    assert rows[2]["unet_step_speedup"]["n"] == 2 and rows[2]["unet_step_ms_p50"] > 0
    assert rows[0]["published"] is None and rows[2]["published"].startswith("1.82 × on A100 80 GB, about 65 to 68 it/s")
    assert "picture_ms_p50" not in rows[0] and "energy_j" not in rows[0]


def test_whole_pictures_take_every_step_and_the_vae(teacher, monkeypatch):
    steps = []
    known = torch.full
    monkeypatch.setattr(torch, "full", lambda *given, **named: steps.append(given[1]) or known(*given, **named))
    counter = itertools.count(0, 2000)
    energy = EnergyMeter(types.SimpleNamespace(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counter)), None)
    batches = make_latency_variants(["bf16"], [False], [False], [2])
    plans = {"sd-tiny": (STUDENTS["sd-tiny"], str(teacher))}
    asked = case(teacher, plans=plans, variants=batches, steps=3, rounds=1, tiny_vae=True, energy=energy)
    rows = list(measure_generation(asked))
    assert steps[:3] == sorted(steps[:3], reverse=True) and len(steps) == 2 * 3 * (WARMUP + 1 + 1)
    assert rows[1]["picture_ms_p50"] > 0 and rows[1]["energy_j"] == 1.0  # 2 J of 2 pictures
    assert "unet_step_ms_p50" not in rows[1] and rows[1]["sampler_steps"] == 3


def test_random_weights_are_made_in_their_own_precision(teacher):
    unet = make_random_unet_in_dtype(load_teacher_config(str(teacher)), "cpu", torch.bfloat16)
    weights = torch.cat([weight.flatten().float() for weight in unet.parameters()])
    assert {weight.dtype for weight in unet.parameters()} == {torch.bfloat16}
    assert weights.isfinite().all() and weights.std() == pytest.approx(0.02, rel=0.05)


def test_columns_without_values_are_left_out():
    row = {"model": "a", "params": 3_000_000, "variant": "fp32", "unet_step_ms_p50": 12.34, "peak_memory_mb": None}
    assert build_generation_table([row, row | {"model": "b", "unet_step_ms_p50": 1234.5}]) == [
        ["model", "parameters", "variant", "step, ms"],
        ["a", "3 M", "fp32", "12.3"],
        ["b", "3 M", "fp32", "1,234"],
    ]


def test_the_command_prints_a_table_and_appends_a_line_a_row(teacher, tmp_path, capsys, monkeypatch):
    out = tmp_path / "rows.jsonl"
    words = ["bench", "draw", "--students", "sd-tiny", "--teacher", str(teacher), "--device", "cpu", "--rounds", "1"]
    words += ["--resolution", "32", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["prunella", *words])
    main.main(words)
    said = capsys.readouterr().out
    assert "sd-tiny" in said and "times as fast" in said and "the safety checker is left out" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["model"] for row in rows] == [str(teacher), "sd-tiny"]
    assert rows[0]["command"].startswith("prunella bench draw") and rows[0]["command"].endswith("--resolution 32")
    assert rows[0]["hardware"]["device"] == "cpu"
