import json

import pytest
from conftest import ROOT

from prunella.cli import main


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
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    assert said(capsys, "check") == "params.yaml: all keys known, all values in range\n"
    path.write_text(path.read_text() + "\ndistil: {}\n")
    assert (
        refused("check")
        == "prunella: params.yaml: distil: no key of the file is called 'distil'; did you mean 'distill'?"
    )
    assert refused("check", "none.yaml").startswith("prunella: none.yaml: there is no such parameter file")


def test_students_are_listed_with_their_source(capsys):
    lines = said(capsys, "students").splitlines()
    assert lines[0].startswith("sd-small") and "BK-SDM" in lines[0]


def test_summary_needs_a_benchmark(capsys, tmp_path):
    assert refused("summary") == "prunella: reports/benchmark.json: there is no benchmark yet; `make repro` makes one"
    (tmp_path / "reports").mkdir()
    entry = {"params": 1_000_000, "latency_ms_p50": 12.3, "output_error": 0.0}
    (tmp_path / "reports" / "benchmark.json").write_text(json.dumps({"models": {"teacher": entry}}))
    text = said(capsys, "summary")
    assert "1.00 M" in text and str(tmp_path / "reports" / "index.html") in text and "make ui" in text
