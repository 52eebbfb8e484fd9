"""Quantised students in the benchmark: models of their own, drawn, scored and measured."""

from pathlib import Path

import pytest
from bits import needs_torchao

from prunella.evaluation.score import score_student, score_teacher
from prunella.profiling.cost import measure_costs
from prunella.sampling.benchmark_images import generate_benchmark_images
from prunella.sampling.gallery import ImageShards, map_stage_folders


def test_a_quantised_model_is_the_fine_tuned_one_in_fewer_bits():
    folders = map_stage_folders(lambda stage: Path("models") / stage, ["fp8"])
    assert list(folders) == ["pruned", "distilled", "finetuned", "fp8"]
    assert folders["fp8"] == folders["finetuned"] == Path("models/finetuned")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@needs_torchao
def test_its_quality_is_compared_with_what_it_is_made_of(params, teacher, pruned_tiny, latents, manifest, root):
    benchmark = params.benchmark.model_copy(update={"quantised": ["int8"]})
    folders = map_stage_folders(lambda stage: pruned_tiny, benchmark.quantised)
    models = {"teacher": teacher} | {f"tiny/{stage}": folder for stage, folder in folders.items()}
    for name, model in models.items():
        generate_benchmark_images(
            benchmark, name=name, model_dir=model, latents_dir=latents, out=root / name, device="cpu"
        )
    assert ImageShards(root / "tiny/int8").settings["bits"] == "int8"
    assert "bits" not in ImageShards(root / "tiny/finetuned").settings
    shared = {
        "teacher_dir": teacher,
        "latents": latents,
        "manifest": manifest,
        "predictions": root / "p",
        "device": "cpu",
    }
    score_teacher(benchmark, images_dir=root / "teacher", **shared)
    report = score_student(
        benchmark,
        keywords=["red"],
        student="tiny",
        models=folders,
        images_dir=root / "tiny",
        teacher_images_dir=root / "teacher",
        **shared,
    )
    errors = report["pairs"]["tiny/int8"]["output_error"]
    exact = report["pairs"]["tiny/finetuned"]["output_error"]
    assert errors != exact and errors == pytest.approx(exact, rel=0.1)
    assert set(report["differences"]) == {
        "tiny/distilled - tiny/pruned", "tiny/finetuned - tiny/distilled", "tiny/int8 - tiny/finetuned",
    }  # fmt: skip


@needs_torchao
def test_it_is_smaller_and_counted_apart(params, teacher, pruned_tiny):
    models = {"teacher": teacher, "tiny": pruned_tiny, "tiny/int8": pruned_tiny}
    found = measure_costs(params.benchmark, models=models, size=(32, 32), device="cpu")["models"]
    assert found["tiny/int8"]["params"] == found["tiny"]["params"]
    assert 0 < found["tiny/int8"]["disk_mb_by"]["unet"] < found["tiny"]["disk_mb_by"]["unet"]
    assert found["tiny/int8"]["latency_ms_p50"] > 0
