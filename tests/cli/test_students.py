import pytest
from commands import refused, said

from prunella.params.recipes import DEFAULTS
from prunella.pruning.plan import SHIPPED_PLANS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_students_of_a_teacher_are_listed(capsys, teacher):
    head, titles, whole, *students = said(capsys, "students", "--teacher", str(teacher)).splitlines()
    assert head == f"{teacher} (Stable Diffusion 1.x or 2.x)" and "with attention" in titles
    assert whole.startswith("teacher")
    assert [line.split()[0] for line in students[:5]] == [
        "bk-sdm-base",
        "bk-sdm-small",
        "bk-sdm-tiny",
        "sd-small",
        "sd-tiny",
    ]
    assert students[5] == ""


def test_students_of_a_published_student_keep_less(capsys, pruned_xl):
    head, _, whole, *students = said(capsys, "students", "--teacher", str(pruned_xl)).splitlines()
    assert head == f"{pruned_xl} (a student of the layout of ssd-1b; those that keep less)"
    assert whole.startswith("teacher") and students[0].startswith("segmind-vega") and students[1] == ""
    assert "segmind-vega: " in said(capsys, "plan", "segmind-vega", "--teacher", str(pruned_xl))
    assert "and lacks that" in refused("plan", "koala-700m", "--teacher", str(pruned_xl))


def test_students_of_a_teacher_of_no_family(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert "is of no known family (its UNet has no down blocks)" in refused("students", "--teacher", ".")


def test_a_plan_is_told_and_drawn(capsys, tmp_path):
    assert "mid     keeps the first resnet alone" in said(capsys, "plan", "ssd-1b")
    assert said(capsys, "plan", "ssd-1b", "--svg", "--out", "ssd.svg") == ""
    drawn = (tmp_path / "ssd.svg").read_text()
    assert drawn.startswith("<svg") and said(capsys, "plan", "ssd-1b", "--svg") == drawn


def test_an_own_plan_is_checked_by_its_file(tmp_path):
    text = (SHIPPED_PLANS / "sd-tiny.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("down: [[0], [0]", "down: [[0], [3]"))
    message = refused("plan", "mine.yaml")
    assert message.startswith("prunella: mine.yaml: ")
    assert "down stage 1 keeps pair 3, but a teacher of family 'sd' has pairs 0 to 1 there" in message


def test_a_student_that_is_not_chosen_yet_is_told_how(tmp_path):
    (tmp_path / "params.yaml").write_text(DEFAULTS.read_text())
    assert "auto-tiny is not chosen yet: `dvc repro plan@auto-tiny`" in refused("plan", "auto-tiny")
