import json

import pytest

from prunella.params import students_not_finetuned
from prunella.training.pass_on import skip_finetune


def test_a_model_is_passed_on_without_its_best_weights_and_with_empty_tables(tmp_path):
    student, out, curves = (tmp_path / name for name in ("distilled", "finetuned", "curves"))
    for file in ("model_index.json", "unet/weights", "best/weights"):
        (student / file).parent.mkdir(parents=True, exist_ok=True)
        (student / file).write_text(file)
    out.mkdir()
    (out / "old").touch()
    report = skip_finetune(student, out, curves)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "model_index.json",
        "unet/weights",
    }
    assert (curves / "train.csv").read_text() == "step,loss\n" and (curves / "samples").is_dir()
    assert report["steps"] == 0 and report["passed_on"] == str(student) and json.dumps(report)


@pytest.mark.parametrize(("chosen", "left"), [(None, []), ([], ["sd-small", "sd-tiny"]), (["sd-tiny"], ["sd-small"])])
def test_who_is_not_tuned(params, chosen, left):
    finetune = params.finetune.model_copy(update={"students": chosen})
    assert students_not_finetuned(params.model_copy(update={"finetune": finetune})) == left
