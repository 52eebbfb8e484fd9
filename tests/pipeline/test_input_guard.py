import os
import sys
from pathlib import Path

import pytest
import toygraph
import yaml
from conftest import ROOT
from stored import put

from prunella.errors import UserError
from prunella.pipeline.input_guard import InputGuard, read_stage_spec
from prunella.pipeline.stage import run_stage

DVC_YAML = """
stages:
  distill:
    foreach: ${students}
    do:
      cmd: "true"
      deps:
      - data/latents
      - ${filter.path}
      - models/pruned/${item}
      - src/room
      params: [distill, benchmark.prompts, other.yaml: [a]]
      outs:
      - models/distilled/${item}
      - kept.json:
          persist: true
      metrics:
      - reports/${item}.json: {cache: false}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A stage's working folder, as DVC would start distill@sd-tiny in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "distill@sd-tiny")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(
        sys, "argv", ["distill.py", "--student", "models/pruned/sd-tiny", "--out", "models/distilled/x"]
    )
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    for name in ("src/room/loop.py", "data/scenes.yaml", "models/pruned/sd-tiny/weights.bin", "other.yaml"):
        written(tmp_path / name, "a: 1\n")
    written(tmp_path / "data/latents/manifest.json", "{}")
    written(tmp_path / "data/latents/train-00000.safetensors", "some")
    return tmp_path


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def edited(folder: Path, section: str, key: str, value) -> None:
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def run(change) -> str:
    """What the stage ends with when `change` happens while it runs and it has written its outs; "" for success."""
    try:
        with run_stage("distill", "A stage.", None, "student", "out"):
            for out in ("models/distilled/sd-tiny/weights.bin", "reports/sd-tiny.json", "kept.json"):
                written(Path(out), "made")
            change()
    except SystemExit as ended:
        return ended.code
    return ""


def recorded_by_dvc(change) -> dict:
    """A lock file's entry: DVC reads the parameters after a command that ended well."""
    return {} if run(change) else yaml.safe_load(Path("params.yaml").read_text())["distill"]


def test_parameters_edited_meanwhile_are_not_recorded_for_the_old_result(folder):
    assert recorded_by_dvc(lambda: None)["learning_rate"] == 2e-3
    assert recorded_by_dvc(lambda: edited(folder, "distill", "learning_rate", 9e-3)) == {}


def test_what_changed_is_named_with_its_values(folder):
    message = run(lambda: edited(folder, "distill", "learning_rate", 9e-3))
    assert message.startswith("distill: ") and "distill.learning_rate changed 0.002 → 0.009" in message
    message = run(lambda: edited(folder, "benchmark", "prompts", 3))
    assert "benchmark.prompts changed 64 → 3" in message


def test_what_the_stage_does_not_depend_on_may_change(folder):
    def change():
        edited(folder, "benchmark", "guidance_scale", 2.0)
        edited(folder, "finetune", "caption_keywords", ["disc"])
        written(folder / "src/other/loop.py", "a: 2\n")
        written(folder / "src/room/__pycache__/loop.cpython-311.pyc", "x")
        (folder / "src/room/loop.py").touch()  # the same content

    assert run(change) == ""
    assert (folder / "models/distilled/sd-tiny").is_dir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda at: (at / "src/room/loop.py").write_text("a: 2\n"), "src/room/loop.py changed"),
        (lambda at: written(at / "src/room/new.py", ""), "src/room/new.py was added"),
        (lambda at: (at / "src/room/loop.py").unlink(), "src/room/loop.py was removed"),
        (lambda at: (at / "data/latents/manifest.json").write_text("[]"), "data/latents/manifest.json changed"),
        (
            lambda at: (at / "data/latents/train-00000.safetensors").write_text("more"),
            "train-00000.safetensors changed",
        ),
        (lambda at: written(at / "data/scenes.yaml", "a: 2\n"), "data/scenes.yaml changed"),
        (lambda at: written(at / "models/pruned/sd-tiny/weights.bin", "a: 2\n"), "weights.bin changed"),
        (lambda at: written(at / "other.yaml", "a: 2\n"), "other.yaml changed"),
        (lambda at: (at / "params.yaml").write_text("a: ["), "params.yaml can no longer be read"),
    ],
)
def test_code_and_data_edited_meanwhile_fail_the_stage(folder, change, said):
    os.utime(folder / "data/latents/train-00000.safetensors", ns=(1, 1))
    assert said in run(lambda: change(folder))


def test_data_on_a_store_that_change_meanwhile_fail_the_stage(folder):
    far = put(folder / "models", "inputs/pairs")
    edited(folder, "filter", "path", far)
    assert run(lambda: None) == ""
    assert f"{far}/pruned/sd-tiny/weights.bin changed" in run(lambda: put(folder / "models", "inputs/pairs"))
    written(folder / "models" / "new.tar", "")
    assert f"{far}/new.tar was added" in run(lambda: put(folder / "models", "inputs/pairs"))


def test_outs_that_dvc_could_take_for_valid_are_removed(folder):
    assert run(lambda: edited(folder, "distill", "steps", 3))
    assert not (folder / "models/distilled/sd-tiny").exists() and not (folder / "reports/sd-tiny.json").exists()
    assert (folder / "kept.json").read_text() == "made"  # DVC does not remove it before a run either


def test_by_hand_outs_stay_and_the_student_is_told_by_the_command(folder, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    assert "distill.steps changed 600 → 3" in run(lambda: edited(folder, "distill", "steps", 3))
    assert (folder / "models/distilled/sd-tiny").exists()


def test_without_dvc_yaml_all_parameters_count(folder):
    (folder / "dvc.yaml").unlink()
    assert "finetune.steps changed 40 → 3" in run(lambda: edited(folder, "finetune", "steps", 3))


def test_many_changes_are_counted(folder):
    inputs = InputGuard("distill@sd-tiny")
    for number in range(9):
        written(folder / f"src/room/{number}.py", "")
    with pytest.raises(UserError, match=r"src/room/\d.py was added and 4 more"):
        inputs.check()


def test_processes_that_read_other_parameters_than_their_launcher_stop(folder, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("PRUNELLA_BEGUN_WITH", InputGuard("distill@sd-tiny").digest)
    assert run(lambda: None) == ""
    edited(folder, "distill", "steps", 3)
    assert "params.yaml changed" in run(lambda: None)


def test_stages_over_tables_and_matrices_are_found(folder):
    (folder / "dvc.yaml").write_text(
        "stages: {a: {foreach: {x: {path: p}}, do: {cmd: c, deps: ['${item.path}/${key}']}},\n"
        "b: {matrix: {student: '${students}', n: [1, 2]}, cmd: c, deps: ['d/${item.student}/${item.n}']}}"
    )
    params = {"students": ["sd-tiny"]}
    assert read_stage_spec("a@x", params).deps == ("p/x",)
    assert read_stage_spec("b@sd-tiny-2", params).deps == ("d/sd-tiny/2",)


GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", sorted(set(GRAPH) - {"miniature"}))
def test_every_stage_of_the_graph_is_understood(name):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["generate"] = {"x": {"prompts": "p", "model": "m"}}
    params["teachers"] = {"x": {"path": "t"}}
    params["finetune"] |= {
        "data": {"x": {"filter": {"path": "o"}, "encode": {}}},
        "base": {"x": {"model": {"path": "b"}, "data": "x"}},
    }
    item = "sd-tiny" if GRAPH[name].get("foreach") == "${students}" else "x"
    address = f"{name}@{item}" if "do" in GRAPH[name] else name
    entry = read_stage_spec(address, params, ROOT / "dvc.yaml")
    assert entry.deps and not any("$" in path for path in (*entry.deps, *entry.outs))
    assert all((ROOT / path).exists() for path in entry.deps if path.startswith(("src/", "stages/")))
    if name != "plan":
        assert entry.keys


STAGE = """
from pathlib import Path
from prunella.pipeline.stage import run_stage
with run_stage("toy", "A stage.", None, "out", log_to_mlflow=False) as it:
    it.paths.out.write_text(f"made with {it.params.distill.steps} steps")
    params = Path("params.yaml")
    if Path("edit").exists():
        params.write_text(params.read_text().replace("steps: 600", "steps: 7"))
"""


@pytest.mark.slow
def test_dvc_itself_records_nothing_of_a_stage_whose_parameters_were_edited(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "stage.py").write_text(STAGE)
    graph = {"toy": {"cmd": f"{sys.executable} stage.py --out o", "params": ["distill"], "outs": ["o"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    toygraph.run(tmp_path, toygraph.DVC, "init", "--no-scm", "--quiet")
    (tmp_path / "edit").touch()
    environment = {"PYTHONPATH": str(ROOT / "src")}
    with pytest.raises(AssertionError, match=r"distill.steps changed 600 → 7"):
        toygraph.run(tmp_path, toygraph.DVC, "repro", **environment)
    assert not (tmp_path / "dvc.lock").exists() and not (tmp_path / "o").exists()
    (tmp_path / "edit").unlink()
    toygraph.run(tmp_path, toygraph.DVC, "repro", **environment)
    (recorded,) = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"].values()
    assert recorded["params"]["params.yaml"]["distill"]["steps"] == 7
    assert (tmp_path / "o").read_text() == "made with 7 steps"
