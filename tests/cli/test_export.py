import shutil

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
