import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from prunella.evaluation.gallery.prompts import Prompt
from prunella.evaluation.gallery.shards import STAGES, collect, draw_shards
from prunella.evaluation.gallery.tars import shards
from prunella.pruning.plan import CATALOGUE
from prunella.reporting.benchmark import SHOWN, Sources, assemble, write_pages

ERROR = {"value": 0.5, "n": 7, "low": 0.4, "high": 0.6}
COST = {"params": 4, "latency_ms_p50": 10.0}
STUDENTS = ["sd-tiny"]


def gallery(folder, work, value: int) -> None:
    prompts = [Prompt(i, f"prompt {i}", 6, 4, i) for i in range(SHOWN + 1)]
    tasks = shards(prompts, 2)
    draw_shards(tasks, lambda some: np.full((len(some), 4, 6, 3), value, np.uint8), work, "draw")
    collect(tasks, work, folder, {})


def write(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def sources(tmp_path) -> Sources:
    """What the stages before have left, of a teacher and one student."""
    names = ("plans", "drawn", "speeds", "scores", "costs", "curves", "filtered", "examples")
    found = Sources(**{name: tmp_path / name for name in names})
    models = {"teacher": ["teacher"], "sd-tiny": [f"sd-tiny/{stage}" for stage in STAGES]}
    for owner, own in models.items():
        speed = {name: {"pictures": SHOWN + 1, "images_per_second": 2.5} for name in own}
        scores = {name: {"output_error": 0.5, "output_error_estimate": ERROR} for name in own}
        write(found.speeds / f"{owner}.json", {"models": speed})
        write(found.scores / f"{owner}.json", {"models": scores, "unavailable": {"fid": "too few"}})
        for value, name in enumerate(own):
            gallery(found.drawn / name, tmp_path / "work" / name, 100 + value)
    write(found.plans / "sd-tiny.yaml", (CATALOGUE / "sd-tiny.yaml").read_text())
    costs = {"teacher": COST, "sd-tiny": COST | {"params": 1}}
    write(found.costs, {"hardware": {"device": "cpu"}, "settings": {"compiled": False}, "models": costs})
    for training in ("distill", "finetune"):
        for file in ("train", "heldout"):
            write(found.curves / training / "sd-tiny" / f"{file}.csv", "step,loss\n1,0.5\n2,0.25\n")
    filtered = {"source": "folder", "read": 3, "looked_at": 3, "kept": 2, "passed": 2, "fell": {"small": 1}}
    write(found.filtered, filtered | {"causes": {}})
    write(found.examples / "examples.json", {"small": []})
    return found


def test_every_model_has_its_own_scores_and_its_architectures_costs(sources):
    report = assemble(sources, STUDENTS, {"guidance": 4.0})
    assert list(report["models"]) == ["teacher", *(f"sd-tiny/{stage}" for stage in STAGES)]
    scores = {"output_error": 0.5, "output_error_estimate": ERROR}
    assert report["models"]["teacher"] == COST | {"images_per_second": 2.5} | scores
    assert report["models"]["sd-tiny/distilled"]["params"] == 1
    assert report["settings"] == {"guidance": 4.0, "compiled": False, "prompts": SHOWN + 1}
    assert report["hardware"] == {"device": "cpu"} and report["unavailable"] == {"fid": "too few"}


def test_the_pages_and_pictures(sources, tmp_path):
    shown, out = [], tmp_path / "reports"
    out.mkdir()
    report = assemble(sources, STUDENTS, {})
    write_pages(report, sources, STUDENTS, out, lambda name, sheet: shown.append((name, sheet.size)))
    text = (out / "index.html").read_text()
    assert 'src="images/sd-tiny.png"' in text and "sd-tiny/finetuned" in text and "fid: too few" in text
    assert text.count("<li>prompt ") == SHOWN
    sheet = Image.open(out / "images" / "sd-tiny.png")
    zoom = 128 // 4
    assert shown == [("sd-tiny", sheet.size)] and sheet.size == (150 + SHOWN * (6 * zoom + 4), 4 * (4 * zoom + 4))
    colours = [sheet.getpixel((160, row * (4 * zoom + 4) + 10))[0] for row in range(4)]
    assert colours == [100, 100, 101, 102]  # the teacher, then the student's stages
    assert "small" in (out / "filter.html").read_text()
    assert json.loads((out / "headline.json").read_text())["sd-tiny"]["output_error_pruned"] == 0.5


def test_the_report_is_made_without_torch():
    code = "import sys, prunella.reporting.benchmark; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
