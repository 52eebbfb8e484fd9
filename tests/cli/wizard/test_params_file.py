"""The file that follows: a recipe's training, one's own data, nothing of the miniature's."""

import pytest
import yaml

from prunella import STUDENTS
from prunella.cli.wizard import params_file
from prunella.cli.wizard.checkpoint import detect_checkpoint
from prunella.cli.wizard.gpu_fit import GpuFit
from prunella.cli.wizard.images import DatasetInfo
from prunella.cli.wizard.params_file import build_params_file, select_recipe
from prunella.params.recipes import load_recipe

RECIPES = {
    "sd-small": "sd-small",
    "sd-tiny": "sd-tiny",
    "bk-sdm-base": "bk-sdm",
    "bk-sdm-small": "bk-sdm",
    "bk-sdm-tiny": "bk-sdm",
    "ssd-1b": "ssd-1b",
    "segmind-vega": "vega",
    "koala-1b": "koala",
    "koala-700m": "koala",
}


@pytest.fixture(autouse=True)
def fits(monkeypatch):
    """What fits is reckoned elsewhere, for seconds."""
    given_up = {"gradient_checkpointing": True}
    monkeypatch.setattr(params_file, "fit_to_gpu", lambda *_: GpuFit(5, given_up, 9.5))


def made(student: str, pictures: DatasetInfo, words: list[str], teacher: str = "me/mine"):
    plan, checkpoint = STUDENTS[student], detect_checkpoint(teacher)
    return build_params_file(
        checkpoint if checkpoint.family else checkpoint.with_family_defaults(plan.family),
        pictures,
        plan,
        24,
        words,
        "head\nof it",
    )


MANY = DatasetInfo("webdataset", "data/tars", None)


def test_every_student_has_its_own_training():
    assert {name: select_recipe(STUDENTS[name]) for name in STUDENTS} == RECIPES
    assert select_recipe(STUDENTS["ssd-1b"].model_copy(update={"name": "mine"})) == "ssd-1b"
    assert select_recipe(STUDENTS["sd-small"].model_copy(update={"name": "mine"})) == "sd-tiny"


@pytest.mark.parametrize("student", RECIPES)
def test_a_training_is_as_published_but_for_what_has_to_fit(student):
    params = made(student, MANY, []).params
    published = yaml.safe_load(load_recipe(RECIPES[student]))
    for key, value in published["distill"].items():
        assert getattr(params.distill, key) == value
    assert params.students == [student] and params.distill.steps >= 50_000 and params.distill.learning_rate <= 1e-4
    assert params.distill.gradient_checkpointing and params.finetune.gradient_checkpointing
    assert params.runtime.micro_batch == 5 and params.filter.aesthetic.min is None
    assert (params.teacher.source, params.teacher.id) == ("hub", "me/mine")
    assert (params.filter.source, params.filter.path) == ("webdataset", "data/tars")


def test_what_is_said_of_published_values_is_not_said_of_ones_own():
    text = made("sd-tiny", DatasetInfo("folder", "pictures", 5000), ["dog", "cat"]).text
    lines = {line.split(":")[0].strip(): line for line in text.splitlines() if not line.startswith("#")}
    assert text.startswith("# head of it\n#\n# SD-Tiny ")
    for key in ("id", "path", "min", "samples", "caption_keywords"):
        assert "published" not in lines[key]
    assert (
        "  caption_keywords: [dog, cat]" in text
        and "\nfinetune:                   # The student learns from narrow data: docs/finetuning.md.\n" in text
    )
    assert "  steps: 125000             # published (card)" in text


def test_data_are_all_there_is_and_a_tenth_at_most_is_held_out():
    few = made("sd-tiny", DatasetInfo("folder", "pictures", 52), []).params
    assert (few.filter.samples, few.encode.heldout, few.finetune.students) == (52, 5, [])
    two = made("sd-tiny", DatasetInfo("folder", "pictures", 2), []).params
    assert (two.filter.samples, two.encode.heldout) == (2, 1)
    many = made("sd-tiny", DatasetInfo("folder", "pictures", 20_000), ["dog"]).params
    assert (many.filter.samples, many.encode.heldout) == (20_000, 1024)
    assert (many.finetune.students, many.finetune.caption_keywords) == (None, ["dog"])


def test_a_checkpoint_of_another_size_is_taken_at_its_own(xl_teacher):
    params = made("ssd-1b", MANY, [], str(xl_teacher)).params
    assert (params.encode.resolution, params.filter.min_side, params.encode.buckets) == (32, 32, "computed")
    assert (params.teacher.source, params.teacher.path, params.teacher.id) == ("folder", str(xl_teacher), None)


@pytest.mark.parametrize(
    "path", ["/data/my pictures", "a # b", "it's: {x}", 'say "cheese"', "Größe/ä", "12", "yes", "1e3"]
)
def test_any_path_is_written_so_that_it_is_read_again(path):
    assert made("sd-tiny", DatasetInfo("folder", path, 30), []).params.filter.path == path
