"""Names of students in params.yaml that would run a command, or make DVC remove a folder outside, in the real graph."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from toygraph import DVC, ENVIRONMENT, IDENTITY, run, stages_run

pytestmark = pytest.mark.slow
SHELL = "$(touch PWNED)/../sd-tiny"
OUTSIDE = "../../docs/../precious"


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory) -> Path:
    """Stages `check` and `plan` as they are and a stub of `prune`, run once with a good name."""
    folder = tmp_path_factory.mktemp("graph")
    for name in ("plans", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "bundled", "*.egg-info"))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    named(folder, "sd-tiny")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    prune = stages["prune"]["do"]
    stub = {"cmd": "mkdir -p models/pruned/${item}", "deps": ["models/plans/${item}.yaml"], "outs": prune["outs"]}
    graph = {"check": stages["check"], "plan": stages["plan"], "prune": stages["prune"] | {"do": stub}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    for word in ("docs", "precious"):
        (folder / word).mkdir()
        (folder / word / "kept.txt").write_text("kept")
    run(folder, "git", "init", "--quiet")
    for key, value in IDENTITY.items():
        run(folder, "git", "config", key, value)
    run(folder, DVC, "init", "--quiet")
    assert stages_run(run(folder, DVC, "repro")) == {"check", "plan@sd-tiny", "prune@sd-tiny"}
    return folder


def named(folder: Path, *students: str) -> None:
    content = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"students": list(students)}))


def test_a_second_repro_runs_nothing_and_a_further_student_only_its_own(ran_once, tmp_path):
    folder = Path(shutil.copytree(ran_once, tmp_path / "graph", symlinks=True))
    assert stages_run(run(folder, DVC, "repro")) == set()
    named(folder, "sd-tiny", "sd-small")
    assert stages_run(run(folder, DVC, "repro")) == {"check", "plan@sd-small", "prune@sd-small"}


@pytest.mark.parametrize("before", ["never", "once"])
@pytest.mark.parametrize("name", [SHELL, OUTSIDE])
def test_a_hostile_name_is_refused_before_a_command_holds_it(ran_once, tmp_path, name, before):
    folder = Path(shutil.copytree(ran_once, tmp_path / "graph", symlinks=True))
    if before == "never":
        (folder / "dvc.lock").unlink()
        shutil.rmtree(folder / ".dvc" / "cache")
    named(folder, name)
    done = subprocess.run([str(DVC), "repro"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and stages_run(done.stdout) <= {"check"}
    assert not list(folder.rglob("PWNED"))
    assert (folder / "precious" / "kept.txt").is_file() and (folder / "docs" / "kept.txt").is_file()
    assert "students.0" in done.stderr
