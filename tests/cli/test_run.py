import json

import pytest
import yaml
from commands import refused, said
from conftest import ROOT, toy_params

from prunella.cli.main import main
from prunella.data.examples import EXAMPLES_FILE
from prunella.tracking.journal import create_journal
from prunella.tracking.training_estimate import TrainingEstimate

TEACHER = {"params": 1_000_000, "latency_ms_p50": 12.3, "output_error": 0.0}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own; of what a training takes, which is reckoned for seconds, the title alone is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainingEstimate, "print_summary", lambda estimate: print(estimate.title))


def test_check_says_that_all_is_well_or_what_is_not(capsys, tmp_path):
    for name in ("src", "data"):
        (tmp_path / name).symlink_to(ROOT / name)  # where the bundled teacher and the scenes are
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    found = said(capsys, "check")
    assert found.startswith("params.yaml: ") and "\ndistill sd-tiny\n" in found and "\ndisk: about " in found
    sound = path.read_text()
    path.write_text(sound.replace("latent_kid]", "latent_kit]"))
    assert "'latent_kid'" in refused("check")
    path.write_text(sound + "\ndistil: {}\n")
    message = refused("check")
    assert message.startswith("prunella: params.yaml: distil: ") and "'distill'" in message
    assert refused("check", "none.yaml").startswith("prunella: none.yaml: ")


def test_check_finds_a_teacher_of_the_wrong_family_before_any_work(tmp_path, xl_teacher, pictures):
    content = toy_params(xl_teacher, pictures)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    message = refused("check")
    assert "sd-small" in message and "'sd'" in message and "Stable Diffusion XL" in message
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content | {"students": ["ssd-1b"]}))
    main(["check"])


def test_filtered_writes_the_page_before_anything_is_trained_and_leaves_an_equal_one_alone(capsys, tmp_path):
    assert refused("filter-report").startswith("prunella: reports/filter.json: ")
    examples = tmp_path / "reports" / "filter"
    examples.mkdir(parents=True)
    (examples / EXAMPLES_FILE).write_text("{}")
    fell = {"source": "folder", "read": 7, "looked_at": 5, "kept": 4, "passed": 4, "fell": {"small": 3}, "causes": {}}
    (tmp_path / "reports" / "filter.json").write_text(json.dumps(fell))
    page = tmp_path / "reports" / "filter.html"
    assert str(page) in said(capsys, "filter-report") and "7 pairs read" in page.read_text()
    page.chmod(0o444)  # as DVC leaves it, a link to its own copy
    before = page.stat()
    said(capsys, "filter-report")
    assert page.stat() == before
    (tmp_path / "reports" / "filter.json").write_text(json.dumps(fell | {"read": 8}))
    said(capsys, "filter-report")
    assert "8 pairs read" in page.read_text() and page.stat().st_ino != before.st_ino


def test_summary_needs_a_benchmark(capsys, tmp_path):
    assert refused("summary").startswith("prunella: reports/benchmark.json: ")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "benchmark.json").write_text(json.dumps({"models": {"teacher": TEACHER}}))
    text = said(capsys, "summary")
    assert "1.00 M" in text and str(tmp_path / "reports" / "index.html") in text and "make ui" in text


def test_summary_says_what_mlflow_lacks_but_for_a_stage_that_is_running(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "benchmark.json").write_text(json.dumps({"models": {"teacher": TEACHER}}))
    running = create_journal(tmp_path / "work" / "tracking")
    running.add("start", {})
    assert "MLflow lacks" not in said(capsys, "summary")
    running.close(complete=False)  # as a kill does
    assert "MLflow lacks the end of 1 stage, killed or without a server; `prunella sync` sends it" in said(
        capsys, "summary"
    )
