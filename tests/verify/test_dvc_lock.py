import shutil

import pytest
import yaml
from conftest import ROOT

from prunella.errors import UserError
from prunella.verify import dvc_lock
from prunella.verify.dvc_lock import (
    LockedStage,
    StageStatus,
    expand_stage_names,
    find_param_changes,
    read_dvc_lock,
    read_stage_keys,
)


@pytest.fixture
def root(tmp_path):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_stage_is_all_its_students(root):
    assert expand_stage_names(["distill"], root) == ["distill@sd-small", "distill@sd-tiny"]
    assert expand_stage_names(["encode", "distill@sd-tiny", "encode"], root) == ["encode", "distill@sd-tiny"]
    assert expand_stage_names(["draw-sd-tiny-pruned", "draw-teacher"], root) == [
        "draw@sd-small",
        "draw@sd-tiny",
        "draw_teacher",
    ]


@pytest.mark.parametrize(
    "name, said",
    [("distil", "distill"), ("plan", "dvc repro plan"), ("distill@sd-tine", "sd-tiny"), ("encode@x", "encode")],
)
def test_other_names_are_refused(root, name, said):
    with pytest.raises(UserError, match=said):
        expand_stage_names([name], root)


def test_code_and_data_are_told_apart(tmp_path):
    deps = [{"path": path, "md5": path[-1]} for path in ("src/prunella/a", "stages/b", "models/c", "data/d.json")]
    stage = {"cmd": "x", "deps": deps, "params": {"params.yaml": {"seed": 1, "encode": {"a": 2, "b": {}}}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"encode": stage}}))
    found = read_dvc_lock(tmp_path / "dvc.lock")["encode"]
    assert found.code == {"src/prunella/a": "a", "stages/b": "b"}
    assert found.data == {"models/c": "c", "data/d.json": "n"}
    assert found.params == {"seed": 1, "encode.a": 2, "encode.b": {}}
    assert read_dvc_lock(tmp_path / "none") == {}


def test_a_new_key_at_its_default_is_no_change(monkeypatch):
    monkeypatch.setattr(dvc_lock, "load_shipped_defaults", lambda: {"distill": {"steps": 7, "added": 0.5}, "seed": 0})
    noted = LockedStage({}, {}, {"distill.steps": 3, "distill.went": 1})

    def changes(gone: dict, **values) -> list[str]:
        return find_param_changes(noted, ["distill"], {"seed": 9, "distill": values}, gone)

    assert changes({"distill.went": 1}, steps=3, added=0.5) == []
    (one,) = changes({"distill.went": 1}, steps=3, added=0.4)
    assert "distill.added" in one and "0.4" in one
    assert changes({"distill.went": 1}, steps=4, added=0.5) == ["distill.steps: 3 → 4"]
    (one,) = changes({"distill.went": 2}, steps=3)
    assert "distill.went" in one


def test_the_keys_of_a_stage_are_those_of_dvc_yaml(root):
    assert read_stage_keys("distill@sd-tiny", root) == ["distill"]
    assert "benchmark.seed" in read_stage_keys("draw@sd-small", root)


def test_what_else_changed_is_named():
    deps = {"src/prunella/models": "modified", "data/latents": "modified", "params.yaml": {"distill.steps": "modified"}}
    status = StageStatus(deps, {"models/x": "not in cache", "reports/y": "deleted"}, False)
    assert status.code and status.other_changes == ["data/latents: modified", "reports/y: deleted"]
    assert not StageStatus({"data/latents": "new"}, {}, False).code
    assert StageStatus({}, {}, True).code


def test_numbers_are_read_as_dvc_writes_them(tmp_path):
    text = (
        "stages:\n  distill@a:\n    cmd: x\n    params:\n      params.yaml:\n        distill:\n          eps: 1e-08\n"
    )
    (tmp_path / "dvc.lock").write_text(text)
    assert read_dvc_lock(tmp_path / "dvc.lock")["distill@a"].params == {"distill.eps": 1e-8}
