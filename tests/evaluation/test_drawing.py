import numpy as np
import pytest
from conftest import SIDE

from prunella.evaluation.drawing import draw, grid
from prunella.models.pipeline import load_pipeline

PROMPTS = ["a small red heart", "a ring", "a star"]
HOW = {"steps": 2, "guidance": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def pipeline(teacher):
    return load_pipeline(teacher)


def test_batches_change_no_picture(pipeline):
    one, all_at_once = (list(draw(pipeline, PROMPTS, batch_size=size, **HOW)) for size in (1, 3))
    assert len(one) == 3 and one[0].shape == (SIDE, SIDE, 3) and one[0].dtype == np.uint8
    for a, b in zip(one, all_at_once, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_noise_is_counted_from_first(pipeline):
    later = next(draw(pipeline, PROMPTS[2:], batch_size=2, first=2, **HOW))
    assert np.abs(later.astype(int) - list(draw(pipeline, PROMPTS, batch_size=2, **HOW))[2]).max() <= 1
    other = next(draw(pipeline, PROMPTS[2:], batch_size=1, **(HOW | {"seed": 2}), first=2))
    assert not np.array_equal(later, other)


def test_a_grid_has_a_row_a_key_and_a_column_a_picture():
    white, red = np.full((4, 6, 3), 255, np.uint8), np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    sheet = grid({"a": [white, red], "b": [red]}, zoom=2)
    assert sheet.size == (150 + 2 * 16, 2 * 12)
    assert sheet.getpixel((150 + 16 + 3, 5)) == (255, 0, 0) == sheet.getpixel((153, 12 + 5))
    assert sheet.getpixel((153, 5)) == (255, 255, 255)
