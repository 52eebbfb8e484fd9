import json

import pytest
import yaml
from conftest import ROOT, toy_params

from prunella.cli.main import main
from prunella.pruning.plan import CATALOGUE


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def refused(*arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code


def test_help_explains_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in ("summary", "check", "students", "ui"))


def test_check_says_that_all_is_well_or_what_is_not(capsys, tmp_path):
    (tmp_path / "src").symlink_to(ROOT / "src")  # where the bundled teacher is
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    assert said(capsys, "check") == "params.yaml: all keys known, all values in range\n"
    path.write_text(path.read_text() + "\ndistil: {}\n")
    assert (
        refused("check")
        == "prunella: params.yaml: distil: no key of the file is called 'distil'; did you mean 'distill'?"
    )
    assert refused("check", "none.yaml").startswith("prunella: none.yaml: there is no such parameter file")


def test_check_finds_a_teacher_of_the_wrong_family_before_any_work(tmp_path, xl_teacher, pictures):
    content = toy_params(xl_teacher, pictures)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    message = refused("check")
    assert "student sd-small is made from a teacher of family 'sd'" in message
    assert "this teacher is Stable Diffusion XL" in message
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content | {"students": ["ssd-1b", "koala-1b"]}))
    main(["check"])


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


def test_summary_needs_a_benchmark(capsys, tmp_path):
    assert refused("summary") == "prunella: reports/benchmark.json: there is no benchmark yet; `make repro` makes one"
    (tmp_path / "reports").mkdir()
    entry = {"params": 1_000_000, "latency_ms_p50": 12.3, "output_error": 0.0}
    (tmp_path / "reports" / "benchmark.json").write_text(json.dumps({"models": {"teacher": entry}}))
    text = said(capsys, "summary")
    assert "1.00 M" in text and str(tmp_path / "reports" / "index.html") in text and "make ui" in text


def test_a_plan_is_told_and_drawn(capsys, tmp_path):
    assert "mid     keeps the first resnet alone" in said(capsys, "plan", "ssd-1b")
    assert said(capsys, "draw", "ssd-1b", "--out", "ssd.svg") == ""
    drawn = (tmp_path / "ssd.svg").read_text()
    assert drawn.startswith("<svg") and said(capsys, "draw", "ssd-1b") == drawn


def test_an_own_plan_is_checked_by_its_file(tmp_path):
    text = (CATALOGUE / "sd-tiny.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("down: [[0], [0]", "down: [[0], [3]"))
    message = refused("plan", "mine.yaml")
    assert message.startswith("prunella: mine.yaml: ")
    assert "down stage 1 keeps pair 3, but a teacher of family 'sd' has pairs 0 to 1 there" in message


def test_students_of_a_teacher_of_no_family(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert "is of no known family (its UNet has no down blocks)" in refused("students", "--teacher", ".")
