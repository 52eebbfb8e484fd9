"""Each stage of the benchmark lists in dvc.yaml the keys of `benchmark` that its function reads, and no others."""

import pytest
import yaml
from conftest import ROOT

from prunella.evaluation.score import score_student, score_teacher
from prunella.params import Benchmark
from prunella.profiling.cost import measure_costs
from prunella.sampling.benchmark_images import generate_benchmark_images

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def listed(stage: str) -> set[str]:
    keys = GRAPH[stage].get("do", GRAPH[stage])["params"]
    return {key.removeprefix("benchmark.") for key in keys if key.startswith("benchmark.")}


class Recorded(Benchmark):
    """Notes which of its keys are read."""

    def __getattribute__(self, name):
        if name in Benchmark.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


READ: set[str] = set()
MODELS = {"quantised"}  # by which the stage itself knows its models


@pytest.fixture
def recorded(params):
    made = Recorded(**params.benchmark.model_dump())
    READ.clear()
    return made


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_drawing(recorded, teacher, latents, tmp_path):
    generate_benchmark_images(
        recorded, name="teacher", model_dir=teacher, latents_dir=latents, out=tmp_path / "out", device="cpu"
    )
    assert listed("draw_teacher") == READ and listed("draw") == READ | MODELS


def test_scoring(params, recorded, teacher, latents, manifest, tmp_path):
    out = tmp_path / "drawn" / "pruned"
    generate_benchmark_images(
        params.benchmark, name="teacher", model_dir=teacher, latents_dir=latents, out=out, device="cpu"
    )
    shared = {"teacher_dir": teacher, "latents": latents, "manifest": manifest, "device": "cpu"}
    score_teacher(recorded, images_dir=out, predictions=tmp_path / "predictions", **shared)
    assert listed("score_teacher") == READ
    READ.clear()
    models = {"pruned": teacher}
    score_student(
        recorded,
        keywords=[],
        student="a",
        models=models,
        images_dir=out.parent,
        teacher_images_dir=out,
        predictions=tmp_path / "predictions",
        **shared,
    )
    assert listed("score") == READ | MODELS


def test_costs(recorded, teacher):
    measure_costs(recorded, models={"teacher": teacher}, size=(32, 32), device="cpu")
    assert listed("cost") == READ | MODELS


def test_runtime_decides_costs_and_latencies_alone():
    assert [name for name in GRAPH if "runtime" in GRAPH[name].get("do", GRAPH[name]).get("params", [])] == [
        "latency",
        "cost",
    ]
