import pytest
import yaml
from conftest import ROOT, toy_params
from inprocess import run
from safetensors.torch import load_file

from prunella.errors import UserError
from prunella.export.formats import write_export
from prunella.params import Params, validate_config


def test_the_stage_writes_what_the_parameters_name(teacher, pictures, pruned_tiny, tmp_path, monkeypatch):
    content = toy_params(teacher, pictures)
    content["export"] = {"students": ["sd-tiny"], "to": ["single-file"], "dtype": "bf16"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run(["stages/export.py", "--model", str(pruned_tiny), "--out", "models/exported/sd-tiny"])
    (made,) = (tmp_path / "models/exported/sd-tiny").iterdir()
    kinds = {str(tensor.dtype) for tensor in load_file(made).values()}
    assert made.name == "sd-tiny.safetensors" and kinds == {"torch.bfloat16"}


def test_onnx_in_a_number_format_that_its_runtime_has_not_is_refused_whoever_asks(pruned_tiny, tmp_path):
    with pytest.raises(UserError, match="bf16: ONNX Runtime computes in fp32 or fp16"):
        write_export("onnx", pruned_tiny, tmp_path / "out", "bf16")
    assert not list(tmp_path.iterdir())


def test_a_student_that_is_not_made_is_refused():
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["export"]["students"] = ["sd-tinny"]
    with pytest.raises(
        UserError, match=r"export\.students: no student of this graph is called 'sd-tinny'; did you mean 'sd-tiny'"
    ):
        validate_config(Params, content, "params.yaml")
