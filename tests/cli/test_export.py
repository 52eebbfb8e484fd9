import shutil
from pathlib import Path

import pytest
from commands import refused, said
from diffusers import StableDiffusionPipeline


@pytest.fixture(autouse=True)
def student(tmp_path, pruned_tiny, monkeypatch):
    """The toy's sd-tiny, as if it had been fine-tuned."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(pruned_tiny, tmp_path / "models" / "finetuned" / "sd-tiny")


def test_a_single_file_says_who_takes_it(capsys, student):
    text = said(capsys, "export", "sd-tiny", "--to", "single-file")
    assert text.startswith("exports/sd-tiny.safetensors: ") and "fp16" in text.splitlines()[0]
    assert 'diffusers: with config="models/finetuned/sd-tiny"' in text
    assert "ComfyUI: no class" in text  # of a toy's widths
    pipeline = StableDiffusionPipeline.from_single_file(
        "exports/sd-tiny.safetensors", config="models/finetuned/sd-tiny", local_files_only=True
    )
    assert pipeline.unet.num_parameters() > 0


def test_an_unknown_student_or_kind_is_refused(capsys):
    assert "'sd-small'" in refused("export", "sd-small", "--to", "single-file")
    with pytest.raises(SystemExit):
        said(capsys, "export", "sd-tiny", "--to", "gguf")


def test_a_push_needs_a_repository(capsys):
    assert "--repo" in refused("export", "sd-tiny", "--to", "hub", "--push")
    text = said(capsys, "export", "sd-tiny", "--to", "hub", "--repo", "me/small")
    assert text.startswith("exports/sd-tiny-hub: ")


def test_an_onnx_export_says_how_near_to_torch_it_is(capsys, monkeypatch, student):
    part = {"dtype": "fp32", "difference": 3.4e-6, "torch_ms_p50": 12.5, "onnx_ms_p50": 7.5, "speedup": {}}
    asked = []

    def write(*given):
        asked.append(given)
        return {"parts": {"unet": part}}

    monkeypatch.setattr("prunella.export.onnx.write_onnx", write)
    lines = said(capsys, "export", "sd-tiny", "--to", "onnx").splitlines()
    assert lines[0].startswith("exports/sd-tiny-onnx: ")
    assert lines[2].split() == ["unet", "fp32", "3.4e-06", "12.5", "7.5"]
    said(capsys, "export", "sd-tiny", "--to", "onnx", "--dtype", "fp16", "--out", "there")
    folder = Path("models/finetuned/sd-tiny")
    assert asked == [(folder, Path("exports/sd-tiny-onnx"), "fp32"), (folder, Path("there"), "fp16")]
    assert "bf16" in refused("export", "sd-tiny", "--to", "onnx", "--dtype", "bf16")
