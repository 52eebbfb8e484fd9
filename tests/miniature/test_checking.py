import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SIDE
from PIL import Image

from prunella.errors import UserError
from prunella.miniature import checking
from prunella.miniature.checking import SamplingSettings, check_miniature, format_gate_table
from prunella.scenes.judge import parse_scene_caption

DRAWING = SamplingSettings(num_inference_steps=1, guidance_scale=2.0, batch_size=5)


@pytest.fixture(scope="module")
def checked(teacher, vocabulary, recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("check")
    small = replace(vocabulary, picture=SIDE, sizes={"small": (4.0, 5.0), "large": (6.0, 7.0)})
    return check_miniature(teacher, small, recipe, out, 7, DRAWING), out


def test_scenes_of_another_size_are_refused(teacher, vocabulary, recipe, tmp_path):
    with pytest.raises(UserError, match="draws 32 pixels to a side, the scenes have 64"):
        check_miniature(teacher, vocabulary, recipe, tmp_path, 7, DRAWING)


def test_every_gate_has_its_figures_and_grids(checked):
    figures, out = checked
    json.dumps(figures)
    assert list(figures) == [
        *("reconstructions", "chance", "one object", "two objects", "unseen combinations", "variety", "memory")
    ]
    assert figures["one object"]["composition"]["n"] == 7
    assert "relation" not in figures["one object"]["composition_by"]
    assert figures["two objects"]["composition_by"]["relation"]["n"] == 7
    for name in ("drawn", "variety", "nearest"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 32


def test_the_table_has_a_row_for_each_set_of_pictures(checked):
    lines = format_gate_table(checked[0]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:7]] == [
        *("reconstructions", "chance", "one object", "two objects", "unseen combinations")
    ]
    assert {line.count("|") for line in lines[:7]} == {10}
    assert lines[9].startswith("Spread") and lines[10].startswith("Nearest training picture")


def test_scenes_of_a_number_of_things_are_the_first_such(vocabulary):
    all_of_them = checking._render_check_scenes(vocabulary, 12)
    two = checking._render_check_scenes(vocabulary, 3, num_objects=2)
    assert [c for c, _ in all_of_them if len(parse_scene_caption(c, vocabulary).objects) == 2][:3] == [
        c for c, _ in two
    ]


def test_the_nearest_training_picture_is_found():
    training = np.zeros((2003, 2, 2, 3), np.uint8)
    training[:] = np.arange(2003)[:, None, None, None] % 200
    training[1501] = 250
    wanted = np.full((2, 2, 3), 248, np.uint8)
    assert checking._find_nearest_images([wanted, training[7]], training) == [(1501, 2.0), (7, 0.0)]


def test_where_nothing_is_drawn_there_is_no_spread(vocabulary):
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert checking._measure_spread([[blank, blank]], vocabulary) == {"x_px": None, "y_px": None, "radius_px": None}
