import subprocess

import pytest
import yaml
from conftest import ROOT

from prunella.params import read_params
from prunella.tracking import tags


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A repository whose one commit has the parameters as shipped, and this process in it."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet"), ("add", "params.yaml"), (*who, "commit", "--quiet", "-m", "first")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_EXP_BASELINE_REV", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_what_is_as_committed_is_no_change_pairs_included(committed):
    assert tags.find_changed_params(read_params().model_dump()) == {}
    assert tags.format_execution_title(read_params().model_dump()) == "sd-small, sd-tiny"


def test_a_changed_number_is_named(committed):
    content = yaml.safe_load((committed / "params.yaml").read_text())
    content["distill"] |= {"feature_weight": [[0.0, 1.0], [1.0, 0.25]], "betas": [0.9, 0.99]}
    (committed / "params.yaml").write_text(yaml.safe_dump(content))
    assert tags.find_changed_params(read_params().model_dump()) == {
        "distill.feature_weight": [[0.0, 1.0], [1.0, 0.25]],
        "distill.betas": [0.9, 0.99],
    }
