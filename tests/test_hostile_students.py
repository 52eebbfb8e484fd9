"""Names of students in params.yaml that would run a command, or make DVC remove a folder outside, in the real graph."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from toygraph import DVC, ENVIRONMENT, IDENTITY, run, stages_run

from prunella.pipeline.input_guard import read_stage_spec

SHELL = "$(touch PWNED)/../sd-tiny"
OUTSIDE = "../../docs/../precious"


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory) -> Path:
    """Stages `check` and `plan` as they are and a stub of `prune`, run once with a good name."""
    folder = tmp_path_factory.mktemp("graph")
    for name in ("plans", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "*.egg-info")
    )
    (folder / "data").mkdir()
    shutil.copy2(ROOT / "data" / "scenes.yaml", folder / "data" / "scenes.yaml")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    named(folder, "sd-tiny")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    prune = stages["prune"]["do"]
    stub = {"cmd": "mkdir -p models/pruned/${item}", "deps": ["models/plans/${item}.yaml"], "outs": prune["outs"]}
    graph = {"check": stages["check"], "plan": stages["plan"], "prune": stages["prune"] | {"do": stub}}
    (folder / "models").mkdir()
    (folder / "data" / "latents").mkdir(parents=True)
    for path in ("models/teacher.json", "models/latency.json", "data/latents/manifest.json"):  # of earlier stages
        (folder / path).write_text("{}")
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


@pytest.mark.slow
def test_a_second_repro_runs_nothing_and_a_further_student_only_its_own(ran_once, tmp_path):
    folder = Path(shutil.copytree(ran_once, tmp_path / "graph", symlinks=True))
    assert stages_run(run(folder, DVC, "repro")) == set()
    named(folder, "sd-tiny", "sd-small")
    assert stages_run(run(folder, DVC, "repro")) == {"check", "plan@sd-small", "prune@sd-small"}


@pytest.mark.slow
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


GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", sorted(name for name, stage in GRAPH.items() if "foreach" in stage))
def test_every_stage_that_holds_a_name_comes_after_the_check(name):
    own = {"x": {"filter": {"path": "o"}}}
    tuning = {
        "latents": "data/latents",
        "stage": "distilled",
        "data": own,
        "base": {"x": {"model": {"path": "b"}, "data": "x"}},
    }
    sets = {"teachers": {"x": {"path": "t"}}, "generate": {"x": {"prompts": "p", "model": "m"}}, "finetune": tuning}
    known = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"students": ["x"]} | sets
    made = {
        each: read_stage_spec(f"{each}@x" if "do" in stage else each, known, ROOT / "dvc.yaml")
        for each, stage in GRAPH.items()
    }
    waiting, before = [name], set()
    while waiting:
        deps = made[waiting.pop()].deps
        found = {each for each, entry in made.items() if set(entry.outs) & set(deps)} - before
        before |= found
        waiting += found
    assert "check" in before


def test_commands_hold_no_value_of_a_parameter_but_the_names_that_check_has_seen():
    held = {word for stage in GRAPH.values() for word in re.findall(r"\$\{(.*?)\}", str(stage.get("do", stage)["cmd"]))}
    # Names, one of two words, and a path that the schema refuses unless it is made of a name.
    assert held <= {"item", "key", "item.data", "finetune.stage", "finetune.latents"}
