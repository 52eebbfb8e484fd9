"""Others' models and sets of one's own in the real graph, on the toy."""

import json
import shutil

import pytest
import yaml
from toygraph import DVC, cloned, run, stages_run

TUNED = "base_finetune@theirs"


@pytest.mark.graph
def test_anothers_student_is_tuned_by_parameters_alone_and_a_rate_encodes_nothing_again(
    teacher, pictures, pruned_tiny, tmp_path, warm
):
    clone = cloned(teacher, pictures, tmp_path, students=["sd-tiny"])
    theirs = shutil.copytree(pruned_tiny, tmp_path / "theirs")
    content = yaml.safe_load((clone / "params.yaml").read_text())
    own = {"source": "folder", "path": str(tmp_path / "pictures"), "caption": "a red thing", "samples": 11}
    content["finetune"] |= {
        "data": {"red": {"filter": own, "encode": {"heldout": 3}}},
        "base": {"theirs": {"model": {"source": "folder", "path": str(theirs)}, "data": "red"}},
    }

    def again() -> set[str]:
        (clone / "params.yaml").write_text(yaml.safe_dump(content))
        return stages_run(run(clone, DVC, "repro", TUNED, **warm))

    before = {"check", "teacher", "own_filter@red"}
    assert again() == before | {"base@theirs", "base_encode@theirs", TUNED}
    assert (clone / "models" / "finetuned" / "theirs" / "model_index.json").is_file()
    assert json.loads((clone / "reports" / "finetune" / "theirs.json").read_text())["pairs"] == 8
    assert again() == set()
    content["finetune"]["learning_rate"] *= 2
    assert again() == {TUNED}
    scheduler = theirs / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + "\n")  # another model from now on
    assert again() == {"base@theirs", "base_encode@theirs", TUNED}
    assert {"cost", "base_draw@theirs", "base_score@theirs", "benchmark"} < stages_run(run(clone, DVC, "repro", **warm))
    models = json.loads((clone / "reports" / "benchmark.json").read_text())["models"]
    assert {"theirs/base", "theirs/finetuned"} < set(models)
    assert stages_run(run(clone, DVC, "repro", **warm)) == set()
