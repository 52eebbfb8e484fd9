import shutil

import numpy as np
import pytest
from commands import refused, said
from PIL import Image

FEW = ("--num-inference-steps", "2", "--precision", "fp32", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def student(folder, pruned_tiny):
    """The toy's sd-tiny, as if it had been distilled."""
    return shutil.copytree(pruned_tiny, folder / "models" / "distilled" / "sd-tiny")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_a_student_is_drawn_with_at_its_latest_stage(capsys, folder, student, pruned_tiny):
    shutil.copytree(pruned_tiny, folder / "models" / "pruned" / "sd-tiny")
    text = said(capsys, "sample", "sd-tiny", "a ring", "a red heart", *FEW)
    assert text.splitlines()[0].startswith("sd-tiny (distilled): models/distilled/sd-tiny, 2 steps")
    first, second = map(pixels, text.splitlines()[1:])
    assert first.shape == (32, 32, 3) and not np.array_equal(first, second)
    again = said(capsys, "sample", "sd-tiny", "a ring", "--out", "again", *FEW).splitlines()[1]
    assert np.array_equal(first, pixels(again))
    assert said(capsys, "sample", "sd-tiny", "a ring", "--stage", "pruned", *FEW).startswith("sd-tiny (pruned): ")


def test_any_pipeline_folder_is_drawn_with(capsys, xl_teacher):
    text = said(capsys, "sample", str(xl_teacher), "a ring", *FEW, "--negative-prompt", "blue", "--size", "48")
    assert pixels(text.splitlines()[1]).shape == (48, 48, 3)


def test_what_is_asked_wrongly_is_said_in_a_line(capsys, student):
    assert "sd-tiny (distilled)" in refused("sample", "sd-tinny", "a ring")
    assert "no pruned student" in refused("sample", "sd-tiny", "a ring", "--stage", "pruned")
    assert "models/teacher.json" in refused("sample", "teacher", "a ring")
    assert "num_inference_steps" in refused("sample", "sd-tiny", "a ring", "--num-inference-steps", "0")
    assert "multiple of" in refused("sample", "sd-tiny", "a ring", "--size", "33", *FEW)
