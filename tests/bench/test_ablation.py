import json

import pytest
from benches import toy_setting
from conftest import DISTILLING

from prunella.bench import ablation as rooms
from prunella.bench.ablation import (
    VARIANTS,
    build_ablation_table,
    make_step_variants,
    run_ablation,
    train_and_measure_variant,
)
from prunella.bench.setting import ExperimentSetting
from prunella.models.pipeline import load_unet
from prunella.params import Distill, validate_config
from prunella.profiling.cost import count_macs
from prunella.pruning.plan import STUDENTS


@pytest.fixture
def setting(teacher, latents) -> ExperimentSetting:
    distill = validate_config(Distill, DISTILLING | {"steps": 6, "lr_warmup_steps": 2}, "distill")
    return toy_setting(distill, teacher, latents, prompts=2)


def test_a_run_is_measured_as_every_other(setting):
    figures = train_and_measure_variant(setting, STUDENTS["sd-tiny"], VARIANTS["task"], 0, "task")
    assert figures["steps"] == 6 and figures["pictures"] == 2 and 0 <= figures["right"] <= 2
    assert "feature/down_blocks.0" in figures and figures["output"] > 0  # though nothing was learned from them


def test_no_two_variants_are_the_same_whatever_the_parameters_say(setting):
    for normalisation in ("none", "teacher"):
        distill = setting.distill.model_copy(update={"feature_normalization": normalisation})
        asked = [(str(distill.model_copy(update=v.changes)), v.random, v.equal_flops) for v in VARIANTS.values()]
        assert len(set(asked)) == len(VARIANTS)


def test_as_many_operations_are_more_steps(setting):
    figures = train_and_measure_variant(setting, STUDENTS["sd-tiny"], VARIANTS["task, as many operations"], 0, "task")
    teacher = count_macs(dict(load_unet(setting.teacher_dir).config))["macs"]
    student = count_macs(dict(rooms.prune(load_unet(setting.teacher_dir), STUDENTS["sd-tiny"]).config))["macs"]
    assert figures["steps"] == round(6 * (teacher + 3 * student) / (3 * student))


def test_a_random_start_is_another_start(setting):
    none = make_step_variants([0], setting.distill)["0 steps"]
    pruned = train_and_measure_variant(setting, STUDENTS["sd-tiny"], none, 0, "pruned")
    random = train_and_measure_variant(setting, STUDENTS["sd-tiny"], none._replace(random=True), 0, "random")
    assert pruned["steps"] == 0 and pruned["output"] != random["output"]


def test_what_was_measured_is_not_measured_again(setting, tmp_path, monkeypatch):
    asked = []

    def measured(setting, plan, variant, seed, title):
        asked.append(title)
        return {"steps": 1, "seconds": 2.0, "task": 0.5 + seed, "output": 0.25, "right": seed, "pictures": 4}

    monkeypatch.setattr(rooms, "train_and_measure_variant", measured)
    variants = {name: VARIANTS[name] for name in ("task", "+ output")}
    first = run_ablation(setting, variants, ["sd-tiny"], [0, 1], tmp_path)
    assert asked == [f"sd-tiny / {name} / seed {seed}" for seed in (0, 1) for name in ("task", "+ output")]
    assert run_ablation(setting, variants, ["sd-tiny"], [0, 1], tmp_path) == json.loads(json.dumps(first))
    assert len(asked) == 4
    head, row, _ = build_ablation_table(first)
    assert head[0] == "student / variant" and row[:3] == ["sd-tiny / task", "1", "2"]
    # Mean 1, standard deviation 0.7071 of two; Student's t of one degree of freedom is 12.706.
    assert row[3:5] == ["1.0000 ± 6.3531", "0.2500 ± 0.0000"]
    assert row[5].startswith("0.125 (")  # one of eight
