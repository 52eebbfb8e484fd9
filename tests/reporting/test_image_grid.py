import numpy as np

from prunella.reporting.image_grid import render_grid


def test_a_grid_has_a_row_a_key_and_a_column_a_picture():
    white, red = np.full((4, 6, 3), 255, np.uint8), np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    sheet = render_grid({"a": [white, red], "b": [red]}, zoom=2)
    assert sheet.size == (150 + 2 * 16, 2 * 12)
    assert sheet.getpixel((150 + 16 + 3, 5)) == (255, 0, 0) == sheet.getpixel((153, 12 + 5))
    assert sheet.getpixel((153, 5)) == (255, 255, 255)


def test_cells_are_as_large_as_the_largest_picture():
    wide, high = np.zeros((2, 7, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)
    assert render_grid({"a": [wide, high]}).size == (150 + 2 * (7 + 4), 5 + 4)
