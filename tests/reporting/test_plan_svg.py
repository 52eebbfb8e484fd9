from xml.etree import ElementTree

import pytest

from prunella import STUDENTS
from prunella.reporting.plan_svg import render_plan_svg

SPACE = "{http://www.w3.org/2000/svg}"


def blocks(student: str) -> tuple[int, int, int]:
    """How many resnets and attentions are drawn as kept, and how many blocks as removed."""
    fills = [
        rect.get("fill") for rect in ElementTree.fromstring(render_plan_svg(STUDENTS[student])).iter(f"{SPACE}rect")
    ]
    return fills.count("#3b7dd8"), fills.count("#e2843b"), fills.count("none")


# By hand: SD's down stages have 2 resnets each, 3 of them with attentions, up stages 3, the mid block 2 and 1.
@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("sd-small", (4 + 8 + 2, 3 + 6 + 1, (4 + 4) + (3 + 3))),
        ("sd-tiny", (3 + 6, 3 + 6, (5 + 6 + 2) + (3 + 3 + 1))),
        ("ssd-1b", (6 + 9 + 1, 4 + 6, 1 + 1)),
    ],
)
def test_every_block_is_drawn_once(student, expected):
    assert blocks(student) == expected


def test_kept_layers_are_numbered():
    texts = [text.text for text in ElementTree.fromstring(render_plan_svg(STUDENTS["ssd-1b"])).iter(f"{SPACE}text")]
    assert (texts.count("4/10"), texts.count("10"), texts.count("1/2"), texts.count("2")) == (4, 1, 2, 3)
    assert "SSD-1B, from Stable Diffusion XL" in texts
