import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prunella.errors import UserError
from prunella.evaluation.score import score_student, score_teacher
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.sampling.benchmark_prompts import select_heldout_prompts
from prunella.sampling.gallery import collect_images, generate_image_shards
from prunella.sampling.image_shards import split_into_shards
from prunella.training.data import iter_heldout_batches
from prunella.training.losses import OUTPUT, DiffusionLoss, per_sample_mse
from prunella.training.validate import evaluate_loss


def gallery(folder, work, prompts, value: int) -> None:
    """Pictures of one grey each."""
    tasks = split_into_shards(prompts, 2)

    def draw(batch):
        return np.stack([np.full((32, 32, 3), value + prompt.number, np.uint8) for prompt in batch])

    generate_image_shards(tasks, draw, work, "draw")
    collect_images(tasks, work, folder, {})


@pytest.fixture(scope="module")
def drawn(latents, tmp_path_factory):
    """Galleries of the teacher and of a student's three stages, of three prompts each."""
    folder, prompts = tmp_path_factory.mktemp("drawn"), select_heldout_prompts(latents, 3, 0)
    for value, name in enumerate(("teacher", "tiny/pruned", "tiny/distilled", "tiny/finetuned")):
        gallery(folder / name, folder / "work" / str(value), prompts, 40 * value)
    return folder


@pytest.fixture(scope="module")
def scored(params, teacher, latents, manifest, drawn, pruned_tiny, tmp_path_factory):
    """The teacher's report, that of the student, and the folder of predictions."""
    predictions = tmp_path_factory.mktemp("scored") / "predictions"
    shared = {"teacher_dir": teacher, "latents": latents, "manifest": manifest, "device": "cpu"}
    first = score_teacher(params.benchmark, images_dir=drawn / "teacher", predictions=predictions, **shared)
    models = {"pruned": pruned_tiny, "distilled": teacher, "finetuned": pruned_tiny}
    second = score_student(
        params.benchmark,
        keywords=["red"],
        student="tiny",
        models=models,
        images_dir=drawn / "tiny",
        teacher_images_dir=drawn / "teacher",
        predictions=predictions,
        **shared,
    )
    return first, second, predictions


def test_the_output_error_is_the_mean_of_its_pairs(scored, teacher, latents, pruned_tiny):
    _, report, _ = scored
    entry, pairs = report["models"]["tiny/pruned"], report["pairs"]["tiny/pruned"]["output_error"]
    scheduler = load_scheduler(teacher)
    task, taught = DiffusionLoss(scheduler), load_unet(teacher)

    def loss(model, batch):
        return {OUTPUT: per_sample_mse(task.predict(model, batch), task.predict(taught, batch)).mean()}

    batches = iter_heldout_batches(LatentDataset(latents, "heldout"), 4, scheduler.config.num_train_timesteps)
    expected = evaluate_loss(load_unet(pruned_tiny), loss, batches)[OUTPUT]
    assert entry["output_error"] == pytest.approx(expected, rel=1e-4) and len(pairs) == 7
    assert entry["output_error_estimate"]["n"] == 7
    assert np.mean(pairs) == pytest.approx(expected, rel=1e-4)
    assert entry["output_error_estimate"]["low"] < expected < entry["output_error_estimate"]["high"]


def test_the_teacher_does_not_differ_from_itself(scored):
    first, second, _ = scored
    assert first["models"]["teacher"]["output_error"] == 0.0
    assert second["models"]["tiny/distilled"]["output_error"] == pytest.approx(0, abs=1e-9)


def test_stages_are_compared_pair_by_pair(scored):
    _, report, _ = scored
    assert list(report["differences"]) == ["tiny/distilled - tiny/pruned", "tiny/finetuned - tiny/distilled"]
    change = report["differences"]["tiny/distilled - tiny/pruned"]["output_error"]
    assert change["value"] == pytest.approx(-report["models"]["tiny/pruned"]["output_error"], rel=1e-4)
    assert change["high"] < 0 and change["n"] == 7 and not change["different"]  # of too few pairs
    parts = report["differences"]["tiny/distilled - tiny/pruned"]["output_error_by"]
    assert sum(part["n"] for part in parts.values()) == 7 and len(parts) == 4
    assert sum(part["n"] * part["value"] for part in parts.values()) == pytest.approx(7 * change["value"], rel=1e-4)


def test_fine_tuning_is_measured_on_its_words_and_on_the_rest(scored, latents):
    change = scored[1]["differences"]["tiny/finetuned - tiny/distilled"]
    own = sum("red" in caption.split() for caption in LatentDataset(latents, "heldout").captions)
    assert 0 < own < 7
    assert [change[part]["output_error"]["n"] for part in ("on_words", "on_rest")] == [own, 7 - own]
    whole = own * change["on_words"]["output_error"]["value"] + (7 - own) * change["on_rest"]["output_error"]["value"]
    assert whole == pytest.approx(7 * change["output_error"]["value"], rel=1e-4)
    assert "on_words" not in scored[1]["differences"]["tiny/distilled - tiny/pruned"]


def test_metrics_and_their_floor_or_why_there_is_none(scored):
    first, second, _ = scored
    assert set(first["floors"]) == {"latent_kid"}
    for entry in (first["models"]["teacher"], *second["models"].values()):
        assert entry["latent_kid"]["n"] == 3 and "composition" not in entry
    kids = [entry["latent_kid"]["value"] for entry in second["models"].values()]
    assert len(set(kids)) == 3
    for report in (first, second):
        assert "scenes" in report["unavailable"]["composition"]


def test_the_teacher_predicts_once(scored, params, teacher, latents, manifest, drawn, pruned_tiny, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "prunella.evaluation.score.load_unet", lambda folder, device: loaded.append(folder) or load_unet(folder)
    )
    score_student(
        params.benchmark,
        keywords=[],
        student="tiny",
        models={"pruned": pruned_tiny},
        teacher_dir=teacher,
        latents=latents,
        manifest=manifest,
        images_dir=drawn / "tiny",
        teacher_images_dir=drawn / "teacher",
        predictions=scored[2],
        device="cpu",
    )
    assert loaded == [pruned_tiny]


def test_anothers_model_has_an_output_error_where_its_space_is_the_teachers(
    scored, params, teacher, latents, manifest, drawn, pruned_tiny, tmp_path
):
    apart = Path(shutil.copytree(pruned_tiny, tmp_path / "apart"))
    vae = json.loads((apart / "vae" / "config.json").read_text())
    (apart / "vae" / "config.json").write_text(json.dumps(vae | {"scaling_factor": 0.02}))
    shutil.copytree(drawn / "tiny" / "pruned", drawn / "theirs" / "base")
    shutil.copytree(drawn / "tiny" / "finetuned", drawn / "theirs" / "finetuned")
    shared = {"teacher_dir": teacher, "latents": latents, "manifest": manifest, "device": "cpu", "keywords": ["red"]}
    shared |= {
        "images_dir": drawn / "theirs",
        "teacher_images_dir": drawn / "teacher",
        "predictions": scored[2],
        "student": "theirs",
    }
    like, other = (
        score_student(params.benchmark, models={"base": folder, "finetuned": pruned_tiny}, **shared)
        for folder in (pruned_tiny, apart)
    )
    ours = scored[1]["models"]["tiny/pruned"]
    assert like["models"]["theirs/base"] == ours and "theirs: output_error" not in like["unavailable"]
    assert other["unavailable"]["theirs: output_error"] == "beside the teacher it has another VAE"
    assert other["models"]["theirs/base"] == {name: ours[name] for name in ours if not name.startswith("output_error")}
    changed = other["differences"]["theirs/finetuned - theirs/base"]
    assert set(changed) == {"latent_kid", "on_words", "on_rest"}


def test_an_unknown_metric_is_refused_before_any_work(params, tmp_path):
    wrong = params.benchmark.model_copy(update={"metrics": ["latent_kit"]})
    none = tmp_path / "none"
    with pytest.raises(UserError, match="latent_kid"):
        score_teacher(
            wrong, teacher_dir=none, latents=none, manifest=none, images_dir=none, predictions=none, device="cpu"
        )
