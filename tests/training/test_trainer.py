import csv
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import DISTILLING, SIDE, TUNING
from diffusers import UNet2DConditionModel
from killing import killed
from PIL import Image

from prunella.compute.device import Placement
from prunella.compute.resume import DONE_FILE
from prunella.errors import UserError
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_unet
from prunella.params import Distill, Finetune, Monitoring, validate_config
from prunella.pruning.plan import read_plan
from prunella.tracking import training_callback
from prunella.tracking.training_callback import NullTracker, TrackingCallback
from prunella.training import checkpoint, trainer, validation
from prunella.training.distill import distill
from prunella.training.finetune import find_captions_with, finetune
from prunella.training.metrics_log import MetricsLog

WATCH = {
    "checkpoint_every": 1,
    "image_every": 2,
    "prompts": 8,
    "negative_prompt": "",
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
}


def watched(**changes) -> TrackingCallback:
    return TrackingCallback(validate_config(Monitoring, WATCH | {"size": None} | changes, "watch"), NullTracker())


def distilling(**changes) -> Distill:
    return validate_config(Distill, DISTILLING | changes, "distill")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def learn(teacher, latents, pruned_tiny, tmp_path):
    def run(params: Distill, name: str = "out", **changes) -> dict:
        return distill(
            params,
            teacher=teacher,
            latents=latents,
            student=pruned_tiny,
            out=tmp_path / name / "sd-tiny",
            curves=tmp_path / name / "curves",
            **{"placement": Placement(), "checkpoint_every": 1, "observer": watched()} | changes,
        )

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
        distill(
            distilling(**THREE),
            teacher=teacher,
            latents=latents,
            student=pruned_tiny,
            out=folder / "sd-tiny",
            curves=folder / "curves",
            placement=Placement(),
            checkpoint_every=1,
            observer=watched(),
        )
    return folder


POINTS = {
    "before a checkpoint": (checkpoint, "save", 4),
    "after a checkpoint": (checkpoint, "list_checkpoints", 9),
    "half a checkpoint": (checkpoint, "sha256", 6),
    "measuring": (validation, "evaluate_loss", 3),
    "keeping the best": (checkpoint, "save", 3),
    "drawing": (training_callback, "generate", 3),
    "writing the result": (trainer, "save_pipeline", 1),
    "writing the curves": (MetricsLog, "export_csv", 1),
}


QUICK = ("half a checkpoint", "writing the result")  # one within the training, one after it


@pytest.mark.parametrize(
    "point", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in POINTS]
)
def test_killed_anywhere_it_ends_at_the_same_bits(learn, whole, tmp_path, point):
    params = distilling(**THREE)
    with killed(*POINTS[point]):
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
    def kill(folder, step, state, keep=2):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", kill)
        learn(distilling())
    learn(distilling(feature_weight=0.7))
    folders = [path for path in (tmp_path / "work" / "distill").iterdir() if path.is_dir()]
    stale, finished = sorted(folders, key=lambda path: (path / DONE_FILE).exists())
    assert not (stale / DONE_FILE).exists() and (finished / DONE_FILE).exists()


def test_a_run_killed_after_its_end_is_not_run_again(learn, tmp_path, capsys):
    first = learn(distilling(), "one")
    shutil.rmtree(tmp_path / "one")  # as DVC does before a stage runs
    assert learn(distilling(), "one") == first | {"peak_memory_mb": ANY}
    assert "distill: this very run has ended before; what it gave is taken from" in capsys.readouterr().out
    assert (tmp_path / "one" / "sd-tiny" / "model_index.json").is_file()


def test_the_best_weights_are_kept_beside_the_last(learn, tmp_path, monkeypatch):
    plain = {"lr_scheduler": "constant", "ema_decay": 0, "storage": "fp32"}
    errors = iter([5.0, 4.0, 1.0, 3.0, 2.0])  # as if measured from step 0 on; the second run goes on from the first
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
    train, held = (LatentDataset(latents, split).captions for split in ("train", "heldout"))
    words = {word.strip(".,").lower() for caption in train for word in caption.split()}
    word = sorted(
        word for word in words if not find_captions_with(held, [word]).size and find_captions_with(train, [word]).size
    )[0]
    report = tune(finetuning(caption_keywords=[word]), latents, pruned_tiny, tmp_path)
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


def test_how_much_of_a_batch_is_taken_at_once_changes_nothing(learn, tmp_path):
    given = {"steps": 2, "batch_size": 8, "storage": "fp32", "ema_decay": 0, "feature_normalization": "teacher"}
    whole = learn(distilling(**given), "whole")
    parts = learn(distilling(**given, evaluate_every=3), "parts", placement=Placement(micro_batch=3))
    assert whole["runtime"]["micro_batch"] == 8 and parts["runtime"]["micro_batch"] == 3
    assert parts["train"] == pytest.approx(whole["train"], rel=1e-4)
    assert parts["heldout"] == pytest.approx(whole["heldout"], rel=1e-4)
    one, two = (load_unet(tmp_path / name / "sd-tiny").state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in one)


def test_memory_is_reckoned_for_the_largest_size_of_pictures():
    class Several:
        shards = tuple(SimpleNamespace(size=size) for size in ((64, 32), (48, 64), (64, 48), (32, 32)))
        starts = np.array([0, 4, 5, 9, 11])

        def get_batch(self, indices):
            return {"mean": torch.zeros(1, 4, *{4: (8, 6)}[indices[0]]), "text": torch.zeros(1, 19, 24)}

    shapes = trainer.example_shapes(validation.TrainingData(Several(), None))
    assert shapes == {"latents": (4, 8, 6), "states": (19, 24)}


def test_words_choose_pairs_as_whole_words():
    captions = ["A red Heart.", "hearts of red", "a heartless ring", "a blue ring, heart"]
    assert find_captions_with(captions, ["heart"]).tolist() == [0, 3]
    assert find_captions_with(captions, ["heart", "hearts"]).tolist() == [0, 1, 3]
    assert find_captions_with(captions, []).tolist() == [0, 1, 2, 3]


def tune(params: Finetune, latents: Path, student: Path, folder: Path, teacher: Path | None = None) -> dict:
    return finetune(
        params,
        teacher=teacher or Path("none"),
        latents=latents,
        student=student,
        out=folder / "out",
        curves=folder / "curves",
        placement=Placement(),
        checkpoint_every=1,
        observer=watched(),
    )


def finetuning(**changes) -> Finetune:
    return validate_config(Finetune, TUNING | changes, "finetune")


def test_finetuning_learns_from_its_words_only(latents, pruned_tiny, tmp_path):
    captions = LatentDataset(latents, "train").captions
    word = next(w for w in ("heart", "ring", "disc", "square") if find_captions_with(captions, [w]).size)
    params = finetuning(caption_keywords=[word])
    report = tune(params, latents, pruned_tiny, tmp_path)
    assert report["pairs"] == len(find_captions_with(captions, [word]))
    assert set(report["heldout"]) == {"loss", "task"}
    assert np.isfinite(report["heldout"]["task"])


def test_words_of_no_caption_are_said(latents, pruned_tiny, tmp_path):
    with pytest.raises(
        UserError, match=r"finetune.caption_keywords: none of 22 captions holds any of \['unicorn'\]; \[\] takes all"
    ):
        tune(finetuning(caption_keywords=["unicorn"]), latents, pruned_tiny, tmp_path)


def weights(folder: Path) -> bytes:
    return (folder / "sd-tiny" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


def curve(folder: Path, split: str) -> list[dict]:
    """The rows of a table without their times."""
    with (folder / "curves" / f"{split}.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


CONSTANT = {"lr_scheduler": "constant", "learning_rate": 3e-3, "evaluate_every": 2}


def test_more_steps_at_a_constant_rate_go_on_from_the_end_of_fewer(learn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "at once"))
    learn(distilling(steps=5, **CONSTANT), "whole")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "in parts"))
    learn(distilling(steps=3, **CONSTANT), "part")
    assert "going on" not in capsys.readouterr().out
    seen = []
    real = trainer.train
    monkeypatch.setattr(
        trainer, "train", lambda *given, **named: (seen.append(row[0]) or row for row in real(*given, **named))
    )
    learn(distilling(steps=5, **CONSTANT), "part")
    assert seen == [4, 5] and "distill: going on from step 3 of a shorter training" in capsys.readouterr().out
    assert weights(tmp_path / "whole") == weights(tmp_path / "part")
    for split in ("train", "heldout"):  # step 3 was measured as the end of the shorter one, off the cadence
        assert curve(tmp_path / "whole", split) == curve(tmp_path / "part", split)


def test_the_best_of_a_shorter_end_off_the_cadence_does_not_count(learn, tmp_path, monkeypatch):
    errors = iter([9.0, 5.0, 1.0, 4.0, 6.0])  # steps 0, 2, 3 (the end); then 4, 5
    monkeypatch.setattr(validation, "evaluate_loss", lambda *given: {"output": next(errors)})
    assert learn(distilling(steps=3, **CONSTANT))["best"] == {"step": 3, "output": 1.0}
    assert learn(distilling(steps=5, **CONSTANT))["best"] == {"step": 4, "output": 4.0}


def test_fewer_steps_never_take_a_later_state(learn, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "at once"))
    learn(distilling(steps=2, **CONSTANT), "whole")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "in parts"))
    learn(distilling(steps=3, **CONSTANT), "part")
    learn(distilling(steps=2, **CONSTANT), "part")
    assert weights(tmp_path / "whole") == weights(tmp_path / "part")


@pytest.mark.parametrize("changes", [{"lr_scheduler": "cosine"}, {"feature_weight": [[0.0, 1.0], [1.0, 0.5]]}])
def test_what_depends_on_the_number_of_steps_starts_anew(learn, monkeypatch, changes, capsys):
    learn(distilling(steps=2, **CONSTANT | changes))
    learn(distilling(steps=3, **CONSTANT | changes))
    assert "going on" not in capsys.readouterr().out


def test_an_observer_changes_no_bit(learn, tmp_path, monkeypatch):
    learn(distilling(**THREE), "watched")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "elsewhere"))
    learn(distilling(**THREE), "unwatched", observer=None, checkpoint_every=2)
    assert weights(tmp_path / "watched") == weights(tmp_path / "unwatched")
    for split in ("train", "heldout"):
        assert curve(tmp_path / "watched", split) == curve(tmp_path / "unwatched", split)
    assert not (tmp_path / "unwatched" / "curves" / "samples").exists()


def test_what_is_watched_decides_no_folder(learn, tmp_path):
    learn(distilling(**THREE), observer=watched(image_every=1, prompts=["a red ring"], size=40))
    learn(distilling(**THREE), observer=watched(num_inference_steps=1))
    (folder,) = (path for path in (tmp_path / "work" / "distill").iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir())[:2] == ["best", "done.json"]


def test_another_storage_saves_the_finished_training_again(learn, tmp_path):
    learn(distilling(**THREE), "half")
    learn(distilling(**THREE, storage="fp32"), "whole")
    assert len(list((tmp_path / "work" / "distill").glob("*/identity.json"))) == 1
    half, whole = (load_unet(tmp_path / name / "sd-tiny").state_dict() for name in ("half", "whole"))
    assert all(torch.equal(part.half().float(), half[name]) for name, part in whole.items())
    assert not torch.equal(whole["conv_in.weight"], half["conv_in.weight"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no checkpoint", None])
def test_damaged_best_weights_are_passed_over(learn, tmp_path, content):
    errors = {"evaluate_every": 1, "lr_scheduler": "constant"}
    learn(distilling(steps=2, **errors))
    (best,) = (tmp_path / "work" / "distill").glob("*/best/step-*.pt")
    data = bytearray(best.read_bytes())
    data[len(data) // 2] ^= 1
    best.write_bytes(content if content is not None else bytes(data))
    with pytest.warns(UserWarning, match="broken checkpoint"):
        assert learn(distilling(steps=3, **errors), observer=None)["best"]["step"] == 3


@pytest.mark.parametrize("line", ["5", '{"a": 1}', "null", '{"step": "x", "split": 3}', "\udcff{"])
def test_damaged_lines_of_the_log_are_passed_over(learn, tmp_path, line):
    learn(distilling(steps=2))
    (path,) = (tmp_path / "work" / "distill").glob("*/metrics.jsonl")
    path.write_text(path.read_text() + line + "\n", errors="surrogateescape")
    learn(distilling(steps=2))
    assert [row["step"] for row in curve(tmp_path / "out", "train")] == ["1", "2"]


def test_room_for_the_states_is_asked_for_before_the_first_step(learn, monkeypatch, tmp_path):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match=r"GB are needed at .*, 0\.00 GB are free; `prunella gc`"):
        learn(distilling())
    assert not list((tmp_path / "work").rglob("step-*"))


def test_half_a_checkpoint_does_not_stay(learn, tmp_path):
    learn(distilling())
    (folder,) = (path for path in (tmp_path / "work" / "distill").iterdir() if path.is_dir())
    for half in (folder / "step-000002.tmp", folder / "best" / "step-000001.tmp"):
        half.write_bytes(b"half")
    learn(distilling())
    assert not list(folder.rglob("*.tmp"))


def test_no_better_for_so_long_ends_the_training_with_the_best_weights(learn, tmp_path, monkeypatch, capsys):
    plain = {"lr_scheduler": "constant", "storage": "fp32"}
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "short"))
    learn(distilling(steps=2, **plain), "two")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "long"))
    measured = {0: 5.0, 1: 4.0, 2: 1.0, 3: 3.0, 4: 2.0, 5: 0.5}
    steps = iter(range(99))
    monkeypatch.setattr(validation, "evaluate_loss", lambda *given: {"output": measured[next(steps)]})
    report = learn(distilling(steps=9, patience=2, **plain), checkpoint_every=3)
    assert (report["steps"], report["stopped"], report["best"]) == (4, 4, {"step": 2, "output": 1.0})
    assert "distill: no better for 2 measurements, so step 4 was the last" in capsys.readouterr().out
    two, out = (load_unet(tmp_path / name / "sd-tiny").state_dict() for name in ("two", "out"))
    assert all(torch.equal(two[name], out[name]) for name in two)
    assert not (tmp_path / "out" / "sd-tiny" / "best").exists()
    steps = iter([4])  # from the checkpoint of step 3 on
    again = learn(distilling(steps=9, patience=2, **plain), checkpoint_every=3)
    assert again == report | dict.fromkeys(("peak_memory_mb", "seconds", "images_per_second"), ANY)


def test_the_teacher_goes_on_teaching(latents, teacher, pruned_tiny, tmp_path):
    report = tune(finetuning(output_weight=0.5), latents, pruned_tiny, tmp_path, teacher)
    assert report["heldout"]["output"] > 0
    loss = report["heldout"]["task"] + 0.5 * report["heldout"]["output"]
    assert report["heldout"]["loss"] == pytest.approx(loss, rel=1e-6)


def test_a_teacher_of_another_kind_does_not_go_on_teaching(latents, xl_teacher, pruned_tiny, tmp_path):
    with pytest.raises(UserError, match=r"pairs of Stable Diffusion 1\.x .* of family Stable Diffusion XL"):
        tune(finetuning(output_weight=0.5), latents, pruned_tiny, tmp_path, xl_teacher)
