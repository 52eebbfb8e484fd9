import csv
import shutil
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import DISTILLING, LEARNING, SIDE
from diffusers import UNet2DConditionModel
from PIL import Image

from prunella.compute.device import Placement
from prunella.compute.workdir import DONE
from prunella.errors import UserError
from prunella.latents.shards import Latents
from prunella.models.pipeline import load_unet
from prunella.params import Distill, Finetune, check
from prunella.pruning.plan import read_plan
from prunella.training import checkpoint, job, validation
from prunella.training.job import about, distill, finetune
from prunella.training.metrics_log import MetricsLog, NullTracker


def distilling(**changes) -> Distill:
    return check(Distill, DISTILLING | changes, "distill")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def learn(teacher, latents, pruned_tiny, tmp_path):
    def run(params: Distill, name: str = "out") -> dict:
        out, curves = tmp_path / name / "sd-tiny", tmp_path / name / "curves"
        return distill(params, teacher, latents, pruned_tiny, out, curves, Placement(), NullTracker())

    return run


def test_a_distilled_student_is_a_folder_with_its_plan_and_report(learn, pruned_tiny, tmp_path):
    report = learn(distilling())
    assert report["steps"] == 2 and report["images_per_second"] > 0 and report["peak_memory_mb"] > 0
    features = {"feature/down_blocks.0", "feature/down_blocks.1", "feature/down_blocks.2"}
    features |= {"feature/up_blocks.0", "feature/up_blocks.1", "feature/up_blocks.2"}
    assert set(report["heldout"]) == {"loss", "task", "output"} | features
    assert set(report["train"]) == {"loss", "task", "output", "gradient_norm"} | features
    out = tmp_path / "out" / "sd-tiny"
    assert read_plan(out / "unet" / "plan.yaml") == read_plan(pruned_tiny / "unet" / "plan.yaml")
    before, after = load_unet(pruned_tiny).state_dict(), load_unet(out).state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["conv_in.weight"], after["conv_in.weight"])


def test_curves_have_a_row_a_step_and_held_out_values_from_the_start(learn, tmp_path):
    learn(distilling())
    tables = {}
    for split in ("train", "heldout"):
        with (tmp_path / "out" / "curves" / f"{split}.csv").open() as file:
            tables[split] = list(csv.DictReader(file))
    assert [row["step"] for row in tables["train"]] == ["1", "2"]
    assert [row["step"] for row in tables["heldout"]] == ["0", "1", "2"]
    assert all(float(row["output"]) > 0 for row in tables["heldout"])


def test_more_steps_bring_the_student_nearer(learn, tmp_path):
    report = learn(distilling(steps=25, learning_rate=2e-3, ema_decay=0, evaluate_every=100))
    with (tmp_path / "out" / "curves" / "heldout.csv").open() as file:
        first = float(next(csv.DictReader(file))["output"])
    assert report["heldout"]["output"] < 0.9 * first


THREE = {"steps": 3, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def whole(teacher, latents, pruned_tiny, tmp_path_factory) -> Path:
    """What three steps give that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        out, curves = folder / "sd-tiny", folder / "curves"
        distill(distilling(**THREE), teacher, latents, pruned_tiny, out, curves, Placement(), NullTracker())
    return folder


POINTS = {
    "before a checkpoint": (checkpoint, "save", 2),
    "after a checkpoint": (checkpoint, "_found", 4),
    "half a checkpoint": (checkpoint, "sha256", 2),
    "measuring": (validation, "evaluate_loss", 3),
    "keeping the best": (validation, "save_file", 2),
    "drawing": (validation, "draw", 3),
    "writing the result": (job, "save_pipeline", 1),
    "writing the curves": (MetricsLog, "tables", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_at_the_same_bits(learn, whole, tmp_path, monkeypatch, point):
    params = distilling(**THREE)
    place, name, call = POINTS[point]
    real, calls = getattr(place, name), []

    def kill(*given, **named):
        calls.append(given)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, name, kill)
        learn(params, "resumed")
    assert not (tmp_path / "resumed" / "sd-tiny").exists() or point == "writing the curves"
    learn(params, "resumed")
    for file in ("sd-tiny/unet/diffusion_pytorch_model.safetensors", "curves/heldout.csv", "curves/samples/3.png"):
        assert (whole / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes(), file
    with (tmp_path / "resumed" / "curves" / "train.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_checkpoint_holds_the_student_and_not_its_teacher(learn, pruned_tiny, tmp_path):
    learn(distilling())
    (newest,) = (tmp_path / "work" / "distill").glob("*/step-000002.pt")
    state, student = torch.load(newest, weights_only=True), load_unet(pruned_tiny)
    assert {name: part.shape for name, part in state["model"].items()} == {
        name: part.shape for name, part in student.state_dict().items()
    }
    assert len(state["ema"]["shadow_params"]) == len(list(student.parameters()))


def test_changed_parameters_do_not_go_on_from_a_stale_run(learn, tmp_path, monkeypatch):
    def kill(folder, step, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", kill)
        learn(distilling())
    learn(distilling(feature_weight=0.7))
    folders = [path for path in (tmp_path / "work" / "distill").iterdir() if path.is_dir()]
    stale, finished = sorted(folders, key=lambda path: (path / DONE).exists())
    assert not (stale / DONE).exists() and (finished / DONE).exists()


def test_a_run_killed_after_its_end_is_not_run_again(learn, tmp_path, capsys):
    first = learn(distilling(), "one")
    shutil.rmtree(tmp_path / "one")  # as DVC does before a stage runs
    assert learn(distilling(), "one") == first | {"peak_memory_mb": ANY}
    assert "distill: this very run has ended before; what it gave is taken from" in capsys.readouterr().out
    assert (tmp_path / "one" / "sd-tiny" / "model_index.json").is_file()


def test_the_best_weights_are_kept_beside_the_last(learn, tmp_path, monkeypatch):
    plain = {"schedule": "constant", "ema_decay": 0, "storage": "fp32"}
    errors = iter([5.0, 4.0, 1.0, *(5.0, 4.0, 1.0, 3.0, 2.0)])  # as if measured from step 0 on, of two runs
    monkeypatch.setattr(validation, "evaluate_loss", lambda *given: {"output": next(errors)})
    learn(distilling(steps=2, **plain), "two")
    report = learn(distilling(steps=4, **plain))
    assert report["best"] == {"step": 2, "output": 1.0} and report["heldout"] == {"output": 2.0}
    best = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "sd-tiny" / "best").state_dict()
    after_two, after_four = (load_unet(tmp_path / name / "sd-tiny").state_dict() for name in ("two", "out"))
    assert all(torch.equal(best[name], after_two[name]) for name in after_two)
    assert not torch.equal(best["conv_in.weight"], after_four["conv_in.weight"])
    assert not (tmp_path / "two" / "sd-tiny" / "best").exists()  # the last was the best there


def test_in_sixteen_bits_the_teacher_is_too_and_pictures_are_drawn(learn, tmp_path):
    learn(distilling(precision="bf16", steps=2, ema_decay=0))
    with (tmp_path / "out" / "curves" / "heldout.csv").open() as file:
        errors = [float(row["output"]) for row in csv.DictReader(file)]
    assert np.isfinite(errors).all()
    with Image.open(tmp_path / "out" / "curves" / "samples" / "2.png") as picture:
        pixels = np.asarray(picture)
    assert pixels[:SIDE, 150:].std() > 1 and pixels[SIDE + 4 :, 150:].std() > 1  # neither row is blank


def test_a_word_of_no_held_out_caption_is_learned_unwatched(latents, pruned_tiny, tmp_path):
    train, held = (Latents(latents, split).captions for split in ("train", "heldout"))
    words = {word.strip(".,").lower() for caption in train for word in caption.split()}
    word = sorted(word for word in words if not about(held, [word]).size and about(train, [word]).size)[0]
    out, curves = tmp_path / "out", tmp_path / "curves"
    report = finetune(finetuning(words=[word]), latents, pruned_tiny, out, curves, Placement(), NullTracker())
    assert report["heldout"] == report["best"] == {}


def test_pictures_show_the_teacher_beside_the_student(learn, tmp_path):
    learn(distilling(steps=3))
    samples = sorted((tmp_path / "out" / "curves" / "samples").iterdir())
    assert [path.name for path in samples] == ["0.png", "2.png", "3.png"]
    with Image.open(samples[0]) as picture:
        assert picture.height == 2 * (SIDE + 4)  # two rows


def test_batches_that_processes_cannot_share_are_refused(learn, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(
        UserError, match=r"batch_size: 3 examples cannot be shared by 2 processes .* a multiple of 2 can"
    ):
        learn(distilling())


def test_words_choose_pairs_as_whole_words():
    captions = ["A red Heart.", "hearts of red", "a heartless ring", "a blue ring, heart"]
    assert about(captions, ["heart"]).tolist() == [0, 3]
    assert about(captions, ["heart", "hearts"]).tolist() == [0, 1, 3]
    assert about(captions, []).tolist() == [0, 1, 2, 3]


def finetuning(**changes) -> Finetune:
    return check(Finetune, LEARNING | {"words": []} | changes, "finetune")


def test_finetuning_learns_from_its_words_only(latents, pruned_tiny, tmp_path):
    captions = Latents(latents, "train").captions
    word = next(w for w in ("heart", "ring", "disc", "square") if about(captions, [w]).size)
    params = finetuning(words=[word])
    report = finetune(params, latents, pruned_tiny, tmp_path / "out", tmp_path / "curves", Placement(), NullTracker())
    assert report["pairs"] == len(about(captions, [word]))
    assert set(report["heldout"]) == {"loss", "task"}
    assert np.isfinite(report["heldout"]["task"])


def test_words_of_no_caption_are_said(latents, pruned_tiny, tmp_path):
    with pytest.raises(
        UserError, match=r"finetune.words: none of 22 captions holds any of \['unicorn'\]; \[\] takes all"
    ):
        finetune(
            finetuning(words=["unicorn"]),
            latents,
            pruned_tiny,
            tmp_path / "out",
            tmp_path / "curves",
            Placement(),
            NullTracker(),
        )
