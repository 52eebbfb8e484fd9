from prunella import STUDENTS
from prunella.reporting.plan_explanation import explain_plan, read_plan_evidence
from prunella.reporting.plan_svg import render_plan_svg

UNIT = {"group": "end", "error": 0.25, "saves": {"params": 1000}, "taken": True, "name": "mid block gone"}
CHOICE = {"params": 3000, "predicted": 0.5, "error": 0.25, "after_rounds": [{"error": 0.125}], "chosen": True}
TOLD = {
    "student": "mine",
    "chosen": True,
    "budget": {"of": "params", "most": 4000, "asked": "sd-tiny"},
    "units": [
        UNIT,
        UNIT | {"group": "stage 0", "taken": False, "name": "stage 0 keeps down 0, up 0 1", "error": 0.75},
        UNIT | {"group": "stage 0", "taken": False, "name": "stage 0 keeps down 0, up 0 2", "error": 0.625},
    ],
    "kept_whole": ["stage 0"],
    "choices": [CHOICE | {"chosen": False, "after_rounds": [], "error": 0.375}, CHOICE],
    "hand_made": [{"name": "sd-tiny", "params": 4000, "error": 0.875}],
    "notes": ["nobody knows it"],
}


def test_reasons_by_hand():
    lines = [" ".join(line.split()) for line in explain_plan(TOLD).splitlines()]
    assert "chosen under a budget of 4,000 params (asked: sd-tiny)" in lines
    assert "mid block gone 0.25 1,000" in lines
    assert "stage 0 keeps down 0, up 0 2 0.625 1,000" in lines and not [line for line in lines if "up 0 1" in line]
    assert "mine 3,000 0.5 0.25 0.125" in lines and "runner-up 1 3,000 0.5 0.375 –" in lines
    assert "sd-tiny 4,000 – 0.875 –" in lines and lines[-1] == "nobody knows it"


def test_evidence_is_of_chosen_students_alone(tmp_path):
    assert read_plan_evidence(tmp_path / "none.yaml") == {}
    (tmp_path / "sd-tiny.json").write_text('{"chosen": false}')
    (tmp_path / "mine.json").write_text('{"chosen": true}')
    assert read_plan_evidence(tmp_path / "sd-tiny.yaml") == {} and read_plan_evidence(tmp_path / "mine.yaml") == {
        "chosen": True
    }


def test_importance_is_the_colour_of_a_block():
    least, most = "#ecd6d6", "#7e1212"  # by the ends of the scale, 1e-6 and 1
    drawn = render_plan_svg(STUDENTS["sd-tiny"], {"down_blocks.0.resnets.0": 1e-9, "down_blocks.0.resnets.1": 5.0})
    assert drawn.count(f'fill="{least}"') == 1 and drawn.count(f'stroke="{most}"') == 1
    assert least not in render_plan_svg(STUDENTS["sd-tiny"])
