from commands import refused, said

from prunella.params import read_params
from prunella.params.recipes import list_recipes


def test_a_recipe_is_written_as_a_whole_parameter_file(capsys, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 3\n")
    assert str(path) in said(capsys, "recipe", "ssd-1b", "--out", str(path))
    assert read_params(path).students == ["ssd-1b"]
    assert said(capsys, "recipe", "ssd-1b") == path.read_text()


def test_a_recipe_changes_a_parameter_file_that_is_there(capsys, tmp_path):
    path = tmp_path / "params.yaml"
    said(capsys, "recipe", "bk-sdm", "--out", str(path))
    said(capsys, "recipe", "coco-30k", "--onto", str(path), "--out", str(path))
    params = read_params(path)
    assert params.students == ["bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny"] and params.distill.steps == 50_000
    assert (params.benchmark.prompts, params.benchmark.scheduler, params.benchmark.resize) == (
        30_000,
        "PNDMScheduler",
        256,
    )
    assert "no parameter file" in refused("recipe", "coco-30k", "--onto", str(tmp_path / "none.yaml"))


def test_recipes_are_listed_when_none_is_named(capsys):
    assert [line.split()[0] for line in said(capsys, "recipe").splitlines()] == list_recipes()


def test_an_unknown_recipe_is_refused():
    assert refused("recipe", "sd-smal").startswith("prunella: no recipe is called 'sd-smal'")
