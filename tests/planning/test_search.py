"""A student that chooses itself, from the toy's parameters to the files of its plan."""

import json
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from prunella import prune, read_plan
from prunella.errors import UserError
from prunella.models.pipeline import load_unet
from prunella.params import PlanSearch, validate_config
from prunella.planning import search
from prunella.planning.cost_model import list_kept_modules
from prunella.planning.importance import OutputError
from prunella.planning.named import copy_plan
from prunella.planning.tournament import bracket_sizes
from prunella.planning.units import full_plan
from prunella.pruning.plan import SHIPPED_PLANS, check_students
from prunella.storage.files import read_json

ASKED = {"budget": {"params": "sd-tiny"}, "keep": [], "attention": False}


@pytest.fixture
def planning(params):
    """The toy's section `plan` with a student "mine", of which parts are changed."""

    def changed(**asked) -> PlanSearch:
        return validate_config(PlanSearch, params.plan.model_dump() | {"students": {"mine": ASKED | asked}}, "plan")

    return changed


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where work/ is, for all tests that do not ask for their own: what is measured once is not measured again."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture
def choose(teacher, latents, tmp_path, root, monkeypatch):
    monkeypatch.setattr(search, "CURVE_POINTS", 2)

    def chosen(planning: PlanSearch, root: Path = root) -> tuple[Path, dict]:
        monkeypatch.setenv("DVC_ROOT", str(root))
        out = tmp_path / "plans" / "mine.yaml"
        told = search.search_plan(
            planning,
            "mine",
            teacher_dir=teacher,
            latents_dir=latents,
            latency_table=tmp_path / "latency.json",
            plan_path=out,
            evidence_path=out.with_suffix(".json"),
            device="cpu",
        )
        return out, told

    return chosen


def test_a_chosen_plan_keeps_its_budget_and_says_why(choose, planning, teacher, tmp_path, capsys):
    out, told = choose(planning())
    plan, unet = read_plan(out), load_unet(teacher)
    student = prune(unet, plan)
    assert (
        student.num_parameters()
        <= told["budget"]["most"]
        == prune(unet, read_plan(SHIPPED_PLANS / "sd-tiny.yaml")).num_parameters()
    )
    student.save_pretrained(tmp_path / "unet")
    assert (
        UNet2DConditionModel.from_pretrained(tmp_path / "unet").config.layers_per_block
        == student.config.layers_per_block
    )
    assert read_json(out.with_suffix(".json")) == json.loads(json.dumps(told))
    (winner,) = [choice for choice in told["choices"] if choice["chosen"]]
    assert winner["params"] == student.num_parameters() and len(told["choices"]) == 3
    assert {unit["name"] for unit in told["units"] if unit["taken"]} == set(winner["lacking"])
    assert {each["name"] for each in told["hand_made"]} == {"bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny"}
    assert len(told["curve"]) == 2 and told["curve"][0]["params"] == winner["params"]  # the smallest there is
    assert set(told["parts"]) <= list_kept_modules(full_plan("sd")) | {"down_blocks.3.downsamplers"}
    after = [choice for choice in told["choices"] if choice["after_rounds"]]
    assert len(after) == 2  # of the three that are measured, 2^rounds
    assert min(after, key=lambda choice: choice["after_rounds"][-1]["error"])["chosen"]
    assert (
        "mine: " in search.format_search_result(told)
        and "sd-tiny" not in search.format_search_result(told).split("(")[0]
    )


def test_without_rounds_the_least_error_before_training_decides(choose, planning):
    told = choose(planning().model_copy(update={"tournament_rounds": 0}))[1]
    assert min(told["choices"], key=lambda choice: choice["error"])["chosen"]
    assert not any(choice["after_rounds"] for choice in told["choices"])


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 20])
def test_what_was_killed_gives_the_same_plan(choose, planning, tmp_path, monkeypatch, after):
    undisturbed = choose(planning())[0].read_bytes()
    shutil.rmtree(tmp_path / "plans")
    real, calls = OutputError.per_sample_errors, []

    def killed(self, student):
        calls.append(student)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(self, student)

    monkeypatch.setattr(OutputError, "per_sample_errors", killed)
    with pytest.raises(KeyboardInterrupt):
        choose(planning(), tmp_path)
    assert not (tmp_path / "plans").exists()
    monkeypatch.setattr(
        OutputError, "per_sample_errors", lambda self, student: calls.append(student) or real(self, student)
    )
    calls.clear()
    assert choose(planning(), tmp_path)[0].read_bytes() == undisturbed
    first = len(calls)
    calls.clear()
    assert choose(planning(), tmp_path)[0].read_bytes() == undisturbed
    assert len(calls) <= 2 < first  # the trained finalists alone are measured anew


def test_milliseconds_without_a_table_are_refused_before_anything_is_measured(choose, planning, tmp_path):
    (tmp_path / "latency.json").write_text("{}")
    with pytest.raises(UserError, match="no latencies are measured there"):
        choose(planning(budget={"ms": 5.0}), tmp_path)
    assert not (tmp_path / "work").exists() and not (tmp_path / "plans").exists()


def test_a_named_student_passes_through(tmp_path):
    out = tmp_path / "sd-tiny.yaml"
    assert copy_plan("sd-tiny", Path("none"), out, tmp_path / "sd-tiny.json") == SHIPPED_PLANS / "sd-tiny.yaml"
    assert out.read_bytes() == (SHIPPED_PLANS / "sd-tiny.yaml").read_bytes()
    assert read_json(tmp_path / "sd-tiny.json") == {"student": "sd-tiny", "chosen": False}


def test_names_of_students_that_choose_themselves():
    check_students(["sd-tiny", "auto"], auto_students=["auto"])
    with pytest.raises(UserError, match="did you mean 'auto'"):
        check_students(["autoo"], auto_students=["auto"])
    with pytest.raises(UserError, match=r"plan.students: sd-tiny is the name of a plan"):
        check_students(["sd-tiny"], auto_students=["sd-tiny"])


def test_the_field_of_a_tournament_halves():
    assert (
        bracket_sizes(4, 2) == [4, 2]
        and bracket_sizes(3, 2) == [3, 2]
        and bracket_sizes(1, 2) == []
        and bracket_sizes(8, 0) == []
    )
