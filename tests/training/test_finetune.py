"""LoRA and DreamBooth through the whole training; what every method has in common is in test_job.py."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import DREAMBOOTH, LORA, TUNING
from safetensors.torch import load_file
from tuning import PLAIN
from tuning import tune as tuning_alone

from prunella.errors import UserError
from prunella.models.pipeline import load_pipeline, load_unet
from prunella.params import Finetune, Monitoring, validate_config
from prunella.sampling.class_images import make_class_latents
from prunella.tracking.training_callback import NullTracker, TrackingCallback
from prunella.training import checkpoint
from prunella.training.lora import FILE

WATCH = {
    "checkpoint_every": 1,
    "image_every": 2,
    "prompts": 2,
    "negative_prompt": "",
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def tuning(lora: dict | None = None, **changes) -> Finetune:
    return validate_config(Finetune, TUNING | {"method": "lora", "lora": LORA | (lora or {})} | changes, "finetune")


def tune(params: Finetune, latents: Path, student: Path, folder: Path, **more) -> dict:
    """Watched, as the stage does."""
    watch = TrackingCallback(validate_config(Monitoring, WATCH | {"size": None}, "watch"), NullTracker())
    return tuning_alone(params, latents, student, folder, observer=watch, **more)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_unet(folder / "out").state_dict() | load_file(folder / "out" / FILE)


STUDENT = {"sd": "pruned_tiny", "sdxl": "xl_teacher"}
LATENTS = {("sd", False): "latents", ("sd", True): "token_latents"}
LATENTS |= {("sdxl", False): "xl_latents", ("sdxl", True): "xl_token_latents"}


def test_a_teacher_of_another_prediction_cannot_teach(teacher, latents, pruned_tiny, tmp_path):
    student = Path(shutil.copytree(pruned_tiny, tmp_path / "student"))
    config = student / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    with pytest.raises(
        UserError, match=r"finetune.output_weight: .* cannot teach .*prediction_type v_prediction, not eps"
    ):
        tune(tuning(output_weight=0.5, **PLAIN), latents, student, tmp_path / "out", teacher=teacher)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("family", ["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_the_folder_is_the_whole_pipeline_with_the_matrices_in_it_and_beside_it(request, tmp_path, family, text):
    student, latents = map(request.getfixturevalue, (STUDENT[family], LATENTS[family, text]))
    report = tune(tuning({"text_encoder": text}, **PLAIN), latents, student, tmp_path)
    assert report["pairs"] == 22 and report["heldout"]["task"] > 0
    plain, whole, beside = load_pipeline(student), load_pipeline(tmp_path / "out"), load_pipeline(student)
    beside.load_lora_weights(tmp_path / "out")
    said = [said_by(pipeline) for pipeline in (plain, whole, beside)]
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(*said[1:], strict=True))
    assert torch.equal(said[0][0], said[1][0]) != text
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    beside.unet.fuse_lora()
    learnt, stock = whole.unet.get_submodule(key), beside.unet.get_submodule(key).base_layer
    assert torch.allclose(learnt.weight, stock.weight, atol=1e-6)
    assert not torch.equal(learnt.weight, plain.unet.get_submodule(key).weight)
    assert torch.equal(whole.unet.conv_in.weight, plain.unet.conv_in.weight)


@torch.no_grad()
def said_by(pipeline) -> list[torch.Tensor]:
    how = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    return [part for part in pipeline.encode_prompt(prompt="a red heart", **how) if part is not None]


@pytest.mark.parametrize("rehearsal", [0.0, 1.5])
def test_killed_it_ends_at_the_same_bits_and_keeps_the_matrices_alone(
    latents, pruned_tiny, tmp_path, monkeypatch, rehearsal
):
    params = tuning(steps=3, ema_decay=0.9, learning_rate=3e-3, replay_weight=rehearsal)
    tune(params, latents, pruned_tiny, tmp_path / "whole", replay_latents=latents)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "elsewhere"))

    def kill(*given, **named):
        raise KeyboardInterrupt

    saves = iter(range(9))
    save = checkpoint.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", lambda *a, **k: kill() if next(saves) == 3 else save(*a, **k))
        tune(params, latents, pruned_tiny, tmp_path / "killed", replay_latents=latents)
    tune(params, latents, pruned_tiny, tmp_path / "killed", replay_latents=latents)
    one, two = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    (state,) = (tmp_path / "elsewhere" / "work" / "finetune").glob("*/step-000003.pt")
    kept = torch.load(state, weights_only=True)
    assert all("lora_" in name for name in kept["model"])
    assert len(kept["ema"]["shadow_params"]) == len(kept["model"])


def test_the_best_matrices_are_kept_beside_the_last(latents, pruned_tiny, tmp_path, monkeypatch):
    from prunella.training import validation

    errors = iter([5.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(validation, "evaluate_loss", lambda *given: {"task": next(errors)})
    assert tune(tuning(steps=3, **PLAIN), latents, pruned_tiny, tmp_path)["best"] == {"step": 1, "task": 1.0}
    last, best = load_file(tmp_path / "out" / FILE), load_file(tmp_path / "out" / "best" / FILE)
    assert last.keys() == best.keys() and any(not torch.equal(last[name], best[name]) for name in last)


def test_text_encoders_without_tokens_are_refused(latents, pruned_tiny, tmp_path):
    with pytest.raises(UserError, match=r"holds text embeddings, .* \(text_encoder: true\) need tokens; encode.text"):
        tune(tuning({"text_encoder": True}), latents, pruned_tiny, tmp_path)


def booth(**changes) -> Finetune:
    method = {"method": "dreambooth", "dreambooth": DREAMBOOTH | changes}
    return validate_config(Finetune, TUNING | method | PLAIN, "finetune")


@pytest.mark.parametrize(("weights", "text"), [("full", False), ("full", True), ("lora", True)])
def test_dreambooth_learns_the_class_beside_the_thing(request, pruned_tiny, tmp_path, weights, text):
    latents = request.getfixturevalue(LATENTS["sd", text])
    params = booth(weights=weights, text_encoder=text)
    prior = make_class_latents(params, pruned_tiny, latents, "cpu")
    report = tune(params, latents, pruned_tiny, tmp_path, make_class_images=lambda: prior)
    assert set(report["train"]) == {"loss", "task", "prior", "gradient_norm"}
    assert report["train"]["loss"] == pytest.approx(report["train"]["task"] + 0.5 * report["train"]["prior"], rel=1e-5)
    assert set(report["heldout"]) == {"loss", "task"}
    plain, whole = load_pipeline(pruned_tiny), load_pipeline(tmp_path / "out")
    assert torch.equal(said_by(plain)[0], said_by(whole)[0]) != text
    assert (tmp_path / "out" / FILE).is_file() == (weights == "lora")
    assert torch.equal(plain.unet.conv_in.weight, whole.unet.conv_in.weight) == (weights == "lora")


def test_without_a_prior_no_picture_is_drawn(latents, pruned_tiny, tmp_path):
    report = tune(
        booth(prior_loss_weight=0.0, class_prompts=[]), latents, pruned_tiny, tmp_path, make_class_images=pytest.fail
    )
    assert "prior" not in report["train"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_main_data_are_learned_beside(latents, pruned_tiny, tmp_path, method):
    report = tune(
        tuning(method=method, replay_weight=0.25, **PLAIN), latents, pruned_tiny, tmp_path, replay_latents=latents
    )
    train = report["train"]
    assert set(train) == {"loss", "task", "rehearsal", "gradient_norm"} and report["pairs"] == 22
    assert train["loss"] == pytest.approx(train["task"] + 0.25 * train["rehearsal"], rel=1e-5)
    with pytest.raises(
        UserError, match=r"finetune\.replay_weight: there are no main data to learn beside; 0 does without"
    ):
        tune(tuning(method=method, replay_weight=0.25, **PLAIN), latents, pruned_tiny, tmp_path)


def test_pairs_of_another_family_cannot_be_rehearsed(latents, xl_latents, pruned_tiny, tmp_path):
    with pytest.raises(UserError, match=r"holds pairs of Stable Diffusion XL, and .* is a model of family"):
        tune(tuning(replay_weight=1.0), latents, pruned_tiny, tmp_path, replay_latents=xl_latents)


def test_class_and_main_data_go_together_and_text_encoders_learn_from_both(token_latents, pruned_tiny, tmp_path):
    params = booth(text_encoder=True).model_copy(update={"replay_weight": 2.0})
    prior = make_class_latents(params, pruned_tiny, token_latents, "cpu")
    report = tune(
        params, token_latents, pruned_tiny, tmp_path, make_class_images=lambda: prior, replay_latents=token_latents
    )
    train = report["train"]
    total = train["task"] + 0.5 * train["prior"] + 2 * train["rehearsal"]
    assert train["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dreambooth": DREAMBOOTH | {"class_prompts": []}}, r"dreambooth.class_prompts: \[a photo of a dog\], for"),
        (
            {"dreambooth": DREAMBOOTH | {"text_encoder": True}, "output_weight": 0.1},
            "output_weight: the teacher cannot",
        ),
        (
            {"dreambooth": DREAMBOOTH | {"text_encoder": True, "weights": "lora"}, "lora": LORA | {"dora": True}},
            "lora.dora goes with the UNet alone",
        ),
    ],
)
def test_settings_at_odds(changes, said):
    with pytest.raises(UserError, match=said):
        validate_config(Finetune, TUNING | {"method": "dreambooth"} | changes, "finetune")
