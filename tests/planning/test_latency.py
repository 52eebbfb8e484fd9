import json

import pytest
import torch
from known import SD15

from prunella.errors import UserError
from prunella.models.pipeline import load_unet
from prunella.planning import latency
from prunella.planning.cost_model import CostTable, list_kept_modules
from prunella.planning.units import DropDeepest, full_plan, plan_without
from prunella.storage.files import json_digest, read_json


@pytest.fixture(scope="module")
def table(teacher) -> dict:
    return latency.measure_latency_table(
        load_unet(teacher), "sd", [DropDeepest(0, "drop"), DropDeepest(1, "keep")], (8, 8), "fp32"
    )


def test_every_part_has_its_time(table):
    assert set(table) == {"0", "1"}
    for removed, plan in (("0", full_plan("sd")), ("1", plan_without("sd", [DropDeepest(1, "keep")]))):
        there = {part for part in list_kept_modules(plan) if "samplers" not in part}
        assert there <= set(table[removed]) and all(ms >= 0 for part, ms in table[removed].items() if part != "rest")
    assert "down_blocks.3.resnets.0" not in table["1"] and "mid_block.resnets.1" in table["1"]


def test_times_add_up_to_the_whole(table, monkeypatch):
    """With a clock that ticks a millisecond at each look, a part takes as many as there are looks inside."""
    from itertools import count

    ticks = count()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks) / 1000)
    unet, plan = torch.nn.Module(), plan_without("sd", [DropDeepest(1, "drop")])
    unet.weight = torch.nn.Parameter(torch.zeros(1))
    inner, outer = torch.nn.Identity(), torch.nn.Sequential()
    outer.append(inner)
    with latency._time_modules(unet, {"": outer, "0": inner}) as marks:
        outer(torch.zeros(1))
    taken = {name: ended(began) for name, (began, ended) in marks.items()}
    assert taken == pytest.approx({"": 3.0, "0": 1.0})
    prices = CostTable({1: table["1"]})
    assert prices.cost_of_plan(plan_without("sd", [DropDeepest(1, "keep")])) == pytest.approx(sum(table["1"].values()))
    assert prices.cost_of_plan(plan) < prices.cost_of_plan(plan_without("sd", [DropDeepest(1, "keep")]))


def test_a_table_is_measured_once_and_of_one_machine(teacher, latents, tmp_path, monkeypatch):
    out = tmp_path / "latency.json"
    latency.load_or_measure_latency("fp32", False, teacher, latents, out, "cpu")
    assert read_json(out) == {}
    measured = []
    monkeypatch.setattr(latency, "measure_latency_table", lambda *given: measured.append(given) or {"0": {"rest": 2.0}})
    for _ in range(2):
        latency.load_or_measure_latency("fp32", True, teacher, latents, out, "cpu")
    assert len(measured) == 1
    config = read_json(teacher / "unet" / "config.json")
    wanted = latency.latency_settings(config, (8, 8), "fp32", "cpu")
    assert latency.read_latency_table(out, wanted) == CostTable({0: {"rest": 2.0}})
    other = read_json(out)
    other["settings"]["hardware"]["cpu"] = "another"
    out.write_text(json.dumps(other))
    with pytest.raises(
        UserError, match=r"was measured with hardware .*another.*dvc repro --force --single-item latency"
    ):
        latency.read_latency_table(out, wanted)
    assert latency.load_or_measure_latency("fp32", False, teacher, latents, out, "cpu") and len(measured) == 1
    out.write_text("{}")
    with pytest.raises(UserError, match="no latencies are measured there"):
        latency.read_latency_table(out, wanted)


def test_a_table_belongs_to_one_unet():
    assert latency.latency_settings(SD15, (8, 8), "fp32", "cpu")["unet"] == json_digest(SD15)
