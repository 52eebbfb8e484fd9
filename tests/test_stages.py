"""Each stage's door, one after the other, in the recipe of SD-Tiny; what stock diffusers makes of the models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import inprocess
import pytest
import yaml

from prunella.tracking.run import DEFAULT_EXPERIMENT

TINY = "models/{}/sd-tiny"


def stage(name: str, *arguments: str) -> None:
    """Run stages/NAME.py here, in this process, as its command line would."""
    inprocess.run([f"stages/{name}.py", *arguments])


@pytest.fixture(scope="module")
def folder(teacher, pictures, tmp_path_factory):
    """A folder where the whole recipe of SD-Tiny has run on the toy."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        inprocess.reproduced(folder, teacher, pictures, "sd-tiny", patch)
        yield folder


def report(folder: Path, name: str) -> dict:
    return json.loads((folder / "reports" / f"{name}.json").read_text())


def test_reports_say_what_was_done(folder):
    assert report(folder, "filter")["kept"] == 29
    assert report(folder, "encode")["heldout"] == 7
    assert set(report(folder, "distill/sd-tiny")) == {
        "steps",
        "images_per_second",
        "seconds",
        "peak_memory_mb",
        "runtime",
        "train",
        "heldout",
        "best",
    }
    asked = report(folder, "distill/sd-tiny")["runtime"]
    assert asked["processes"] == 1 and asked["compile"] == asked["channels_last"] == asked["device"].startswith("cuda")
    assert report(folder, "finetune/sd-tiny")["pairs"] == 22


def test_the_benchmark_has_every_model_and_every_figure(folder):
    models = report(folder, "benchmark")["models"]
    assert list(models) == ["teacher", "sd-tiny/pruned", "sd-tiny/distilled", "sd-tiny/finetuned"]
    expected = {"params", "params_down", "params_mid", "params_up", "macs", "macs_conv_linear", "output_error"}
    expected |= {"latency_ms_p50", "latency_ms_p95", "latency_ms_max", "images_per_second"}
    expected |= {"peak_memory_mb", "loading_peak_memory_mb", "output_error_estimate", "latent_kid"}
    expected |= {"unet_step_ms_p50", "unet_step_ms_p95", "unet_step_ms_max", "speedup", "unet_step_speedup"}
    expected |= {"disk_mb", "disk_mb_by"}
    for entry in models.values():
        assert expected <= set(entry)
        assert "composition" not in entry  # the folder's scenes are pictures like any other: nothing judges them
    assert models["teacher"]["output_error"] == 0
    assert 0 < models["sd-tiny/distilled"]["output_error"] != models["sd-tiny/pruned"]["output_error"]
    latencies = {entry["latency_ms_p50"] for name, entry in models.items() if name != "teacher"}
    assert len(latencies) == 1  # latency is an architecture's
    assert set(report(folder, "benchmark")["floors"]) == {"latent_kid"}
    assert set(report(folder, "benchmark")["unavailable"]) == {"composition"}
    assert report(folder, "benchmark")["hardware"]["device"]


def test_the_page_shows_pictures_that_are_there(folder):
    page = (folder / "reports" / "index.html").read_text()
    assert "sd-tiny, fine-tuned" in page and (folder / "reports" / "images" / "sd-tiny.png").is_file()
    assert "](images/sd-tiny.png)" in (folder / "reports" / "summary.md").read_text()
    assert "29 pairs kept" in (folder / "reports" / "filter.html").read_text()


def test_mlflow_has_a_run_a_stage_under_one_parent(folder):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(DEFAULT_EXPERIMENT).experiment_id])
    parents = [run for run in runs if "stage" not in run.data.tags]
    stages = {run.data.tags["stage"]: run for run in runs if "stage" in run.data.tags}
    assert len(parents) == 1
    assert set(stages) == {
        "teacher",
        "filter",
        "encode",
        "plan sd-tiny",
        "prune sd-tiny",
        "distill sd-tiny",
        "finetune sd-tiny",
        "draw_teacher",
        "draw sd-tiny",
        "score_teacher",
        "score sd-tiny",
        "cost",
        "benchmark",
    }
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    distill = stages["distill sd-tiny"]
    assert distill.data.params["feature_weight"] == "0.5"
    assert parents[0].data.params["distill.feature_weight"] == "0.5"
    steps = [metric.step for metric in client.get_metric_history(distill.info.run_id, "train/loss")]
    assert sorted(steps) == [1, 2]
    images = client.list_artifacts(distill.info.run_id, "images")
    assert {image.path.split("samples")[0] for image in images} == {"images/"} and len(images) >= 2


STOCK = """
import sys
sys.modules["prunella"] = None  # import prunella raises ImportError from here on
from diffusers import DiffusionPipeline
for folder in sys.argv[1:]:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a small red heart", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (32, 32, 3) and picture.std() > 0.01, (folder, picture.std())
    print(folder)
"""


def test_stock_diffusers_draws_with_every_model_folder(folder, teacher):
    models = [str(teacher), *(str(folder / TINY.format(made)) for made in ("pruned", "distilled", "finetuned"))]
    command = [sys.executable, "-c", STOCK, *models]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "1", "PATH": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == models


# A user's mistakes: one message, no stack trace, status 1.


@pytest.fixture
def spoilt(folder, monkeypatch):
    """A function that changes one key of params.yaml for the test's time."""
    path = folder / "params.yaml"
    sound = path.read_text()

    def change(section: str, key: str, value) -> None:
        content = yaml.safe_load(sound)
        content[section][key] = value
        path.write_text(yaml.safe_dump(content))

    yield change
    path.write_text(sound)


def refused(name: str, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        stage(name, *arguments)
    assert isinstance(caught.value.code, str)  # which Python prints alone, with status 1
    return caught.value.code


def test_a_mistake_anywhere_stops_every_stage_first(spoilt, tmp_path):
    spoilt("benchmark", "promts", 3)
    filtering = ("filter", "--report", "r.json", "--examples", "e", "--counts", "c")
    for name, *needs in (("teacher",), filtering, ("prune", "--teacher", "t", "--plan", "p")):
        message = refused(name, "--out", str(tmp_path / "out"), *needs)
        assert message.startswith(f"{name}: params.yaml: benchmark.promts: ") and "did you mean 'prompts'?" in message
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_none(spoilt, tmp_path):
    spoilt("teacher", "path", str(tmp_path))
    assert "so it is no diffusers pipeline folder" in refused("teacher", "--out", str(tmp_path / "teacher.json"))


def test_a_missing_dataset_folder(spoilt, tmp_path):
    spoilt("filter", "path", str(tmp_path / "none"))
    places = [part for name in ("out", "report", "examples", "counts") for part in (f"--{name}", str(tmp_path / name))]
    message = refused("filter", *places)
    assert message.startswith("filter: filter.path: there is no folder")


def test_a_device_that_is_not_there(spoilt, folder, tmp_path):
    spoilt("runtime", "device", "cuda:17")
    about = ["--teacher", "models/teacher.json", "--pairs", "data/filtered"]
    message = refused("encode", *about, "--out", str(tmp_path / "out"), "--report", str(tmp_path / "r.json"))
    assert message.startswith("encode: runtime.device: 'cuda:17' cannot be used: ")


@pytest.mark.slow
def test_a_student_that_is_not_tuned_is_benchmarked_all_the_same(folder, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(folder, tmp_path / "copy", symlinks=True))
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(copy))
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["finetune"]["students"] = []
    Path("params.yaml").write_text(yaml.safe_dump(content))
    words = inprocess.commands(["sd-tiny"])
    for name in ("finetune@sd-tiny", "draw@sd-tiny", "score@sd-tiny", "benchmark"):
        inprocess.run(words[name][2:])
    found = report(copy, "benchmark")
    distilled, finetuned = (found["models"][f"sd-tiny/{stage}"] for stage in ("distilled", "finetuned"))
    assert finetuned["output_error"] == distilled["output_error"]
    assert "not tuned" in found["unavailable"]["sd-tiny/finetuned"]
    assert report(copy, "finetune/sd-tiny")["steps"] == 0
