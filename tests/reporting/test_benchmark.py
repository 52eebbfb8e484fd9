import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from prunella.pruning.plan import SHIPPED_PLANS
from prunella.reporting.benchmark import GRID_COLUMNS, ReportInputs, assemble_report, write_report_pages
from prunella.sampling.benchmark_prompts import Prompt
from prunella.sampling.gallery import STUDENT_STAGES, collect_images, generate_image_shards
from prunella.sampling.image_shards import split_into_shards

ERROR = {"value": 0.5, "n": 7, "low": 0.4, "high": 0.6}
COST = {"params": 4, "latency_ms_p50": 10.0}
HARDWARE = {"device": "cpu", "cpu": "a processor", "threads": 1}
COSTED = {"compiled": False, "latency": "one picture", "size": [6, 4]}
ORIGIN = {"date": None, "commit": None, "changed": False, "experiment": None, "mlflow": {}, "versions": {}}
STUDENTS = ["sd-tiny"]


def gallery(folder, work, value: int) -> None:
    prompts = [Prompt(i, f"prompt {i}", 6, 4, i) for i in range(GRID_COLUMNS + 1)]
    tasks = split_into_shards(prompts, 2)
    generate_image_shards(tasks, lambda some: np.full((len(some), 4, 6, 3), value, np.uint8), work, "draw")
    collect_images(tasks, work, folder, {})


def write(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def sources(tmp_path) -> ReportInputs:
    """What the stages before have left, of a teacher and one student."""
    found = ReportInputs(**{field.name: tmp_path / field.name for field in dataclasses.fields(ReportInputs)})
    models = {"teacher": ["teacher"], "sd-tiny": [f"sd-tiny/{stage}" for stage in STUDENT_STAGES]}
    for owner, own in models.items():
        speed = {name: {"pictures": GRID_COLUMNS + 1, "images_per_second": 2.5} for name in own}
        scores = {name: {"output_error": 0.5, "output_error_estimate": ERROR} for name in own}
        write(found.speeds / f"{owner}.json", {"models": speed})
        pairs = {name: {"output_error": [0.4, 0.6] * 16} for name in own}
        parts = {"unavailable": {"fid": "too few"}, "pairs": pairs, "heldout": {"timesteps": [1, 7] * 16, "last": 8}}
        write(found.scores / f"{owner}.json", {"models": scores, **parts})
        for value, name in enumerate(own):
            gallery(found.images / name, tmp_path / "work" / name, 100 + value)
    write(found.plans / "sd-tiny.yaml", (SHIPPED_PLANS / "sd-tiny.yaml").read_text())
    costs = {"teacher": COST, "sd-tiny": COST | {"params": 1}}
    write(found.costs, {"hardware": HARDWARE, "settings": COSTED, "models": costs})
    for training in ("distill", "finetune"):
        for file in ("train", "heldout"):
            write(found.curves / training / "sd-tiny" / f"{file}.csv", "step,loss\n1,0.5\n2,0.25\n")
    write(found.teacher, {"source": "folder", "path": "a/teacher", "family": "sd", "prediction_type": "epsilon"})
    write(found.trainings / "distill" / "sd-tiny.json", {"steps": 2, "seconds": 1.5, "train": {"loss": 1.0}})
    sizes = [(64, 48), (64, 64), (64, 64)]
    lines = [json.dumps({"key": f"{i}", "text": "a cat", "width": w, "height": h}) for i, (w, h) in enumerate(sizes)]
    write(found.pairs / "pairs.jsonl", "\n".join(lines) + "\n")
    write(found.encoded, {"train": 5, "heldout": 2})
    filtered = {"source": "folder", "read": 3, "looked_at": 3, "kept": 2, "passed": 2, "fell": {"small": 1}}
    write(found.filtered, filtered | {"causes": {}})
    write(found.examples / "examples.json", {"small": []})
    return found


def test_every_model_has_its_own_scores_and_its_architectures_costs(sources):
    report = assemble_report(sources, STUDENTS, {"guidance_scale": 4.0}, {"date": "today"})
    assert list(report["models"]) == ["teacher", *(f"sd-tiny/{stage}" for stage in STUDENT_STAGES)]
    scores = {"output_error": 0.5, "output_error_estimate": ERROR}
    assert report["models"]["teacher"] == COST | {"images_per_second": 2.5} | scores
    assert report["models"]["sd-tiny/distilled"]["params"] == 1
    assert report["settings"] == {"guidance_scale": 4.0, "prompts": GRID_COLUMNS + 1} | COSTED
    assert report["origin"] == {"date": "today"} and report["teacher"]["name"] == "a/teacher"
    assert report["data"] == {"source": "folder", "read": 3, "kept": 2, "train": 5, "heldout": 2, "sizes": None}
    assert list(report["training"]["sd-tiny"]) == ["distill"] and report["training"]["sd-tiny"]["distill"]["steps"] == 2
    assert report["hardware"] == HARDWARE and report["unavailable"] == {"fid": "too few"}


def test_the_pages_and_pictures(sources, tmp_path):
    shown, out = [], tmp_path / "reports"
    out.mkdir()
    report = assemble_report(sources, STUDENTS, {}, ORIGIN)
    write_report_pages(report, sources, STUDENTS, out, lambda step, name, sheet: shown.append((name, sheet.size)))
    text = (out / "index.html").read_text()
    assert "sd-tiny, fine-tuned" in text and "fid: too few" in text.lower() and "a/teacher" in text
    assert all(f"prompt {i}</h3>" in text for i in range(GRID_COLUMNS + 1))
    assert "shorter side, pixels" in text and "words in the caption" not in text  # all have two
    assert "](images/sd-tiny.png)" in (out / "summary.md").read_text()
    sheet = Image.open(out / "images" / "sd-tiny.png")
    zoom = 128 // 4
    assert shown == [("sd-tiny", sheet.size)] and sheet.size == (
        150 + GRID_COLUMNS * (6 * zoom + 4),
        4 * (4 * zoom + 4),
    )
    colours = [sheet.getpixel((160, row * (4 * zoom + 4) + 10))[0] for row in range(4)]
    assert colours == [100, 100, 101, 102]  # the teacher, then the student's stages
    assert "small" in (out / "filter.html").read_text()
    metrics = json.loads((out / "headline.json").read_text())["sd-tiny"]
    assert metrics["output_error_pruned"] == 0.5
    assert not any(name.startswith("latency") for name in metrics)  # another machine's is no change


def test_anothers_model_is_reported_as_students_are(sources, tmp_path):
    names = ["theirs/base", "theirs/finetuned"]
    costs = json.loads(sources.costs.read_text())
    write(sources.costs, costs | {"models": costs["models"] | {"theirs": COST | {"params": 2}}})
    speed = {name: {"pictures": GRID_COLUMNS + 1, "images_per_second": 2.5} for name in names}
    write(sources.speeds / "theirs.json", {"models": speed})
    kid = {"value": 0.25, "n": GRID_COLUMNS + 1, "low": 0.2, "high": 0.3}
    scores = {"models": {name: {"kid": kid} for name in names}, "unavailable": {"theirs: output_error": "another VAE"}}
    write(sources.scores / "theirs.json", scores | {"pairs": {name: {"kid_real": [0.5] * 9} for name in names}})
    write(sources.trainings / "finetune" / "theirs.json", {"steps": 3, "seconds": 1.5})
    for value, name in enumerate(names):
        gallery(sources.images / name, tmp_path / "work" / name, 150 + value)
    # What a student that had the name before has left: no stage that there still is removes it.
    write(sources.trainings / "distill" / "theirs.json", {"steps": 99})
    write(sources.plans / "theirs.yaml", "no plan")
    for training in ("distill", "finetune"):
        (seen := sources.curves / training / "theirs" / "samples").mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(seen / "77.png")
    report = assemble_report(sources, STUDENTS, {}, ORIGIN, ["theirs"])
    assert list(report["models"])[-2:] == names and report["models"]["theirs/base"]["params"] == 2
    assert "output_error" not in report["models"]["theirs/base"]  # its latents are others
    assert report["unavailable"]["theirs: output_error"] == "another VAE"
    assert list(report["training"]["theirs"]) == ["finetune"]
    assert report["training"]["theirs"]["finetune"]["steps"] == 3
    out = tmp_path / "reports"
    out.mkdir()
    write_report_pages(report, sources, [*STUDENTS, "theirs"], out, lambda *_: None)
    text, summary = (out / "index.html").read_text(), (out / "summary.md").read_text()
    assert "theirs, distillation" not in text and "theirs, fine-tuning</h3>" in text
    assert "theirs, as it was" in text and "another VAE" in text and "✦ somebody else" in text
    assert "theirs: the same prompts from the same noise; teacher, as it was, fine-tuned](images/theirs.png)" in summary
    assert "sd-tiny: the same prompts from the same noise; teacher, pruned, distilled, fine-tuned](images" in summary
    sheet = Image.open(out / "images" / "theirs.png")
    assert [sheet.getpixel((160, row * 132 + 10))[0] for row in range(3)] == [100, 150, 151]
    headline = json.loads((out / "headline.json").read_text())["theirs"]
    assert headline["kid_finetuned"] == 0.25 and "output_error_base" not in headline


def test_the_report_is_made_without_torch():
    code = "import sys, prunella.reporting.benchmark; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
