"""The graph's steps from Python, on the toy teacher and its pictures."""

import numpy as np
import pytest

import prunella
from prunella import UserError, parameters
from prunella.params.recipes import DEFAULTS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where work/ goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def test_changes_are_named_by_dotted_keys_and_checked():
    assert parameters().distill.steps == prunella.read_params(DEFAULTS).distill.steps
    params = parameters("sd-tiny", {"distill.steps": 7, "finetune.caption_keywords": [], "seed": 3})
    assert (params.distill.steps, params.finetune.caption_keywords, params.seed) == (7, [], 3)
    assert params.distill.learning_rate == 1e-4  # of the recipe
    for changes, said in {
        ("distill.stpes", 7): "did you mean 'steps'",
        ("distill.steps", 0): "distill.steps: .*greater than or equal to 1",
        ("seed.of", 1): "seed.of: seed is no section",
        ("distil.steps", 1): "did you mean 'distill'",
    }.items():
        with pytest.raises(UserError, match=said):
            parameters(changes=dict([changes]))
    with pytest.raises(UserError, match="no recipe is called"):
        parameters("sd-tny")


def test_entries_get_what_they_lack_as_in_a_file():
    params = parameters(changes={"distill.phases": [{"steps": 2, "plan": 0.5}, {"steps": 3}], "distill.steps": 5})
    assert [phase.plan for phase in params.distill.phases] == [0.5, None]
    assert params.distill.phases[0].learning_rate == params.distill.learning_rate


@pytest.mark.slow
def test_a_student_is_made_and_drawn_without_dvc(params, teacher, tmp_path):
    latents = prunella.encode(params, teacher=teacher, out="data")
    student = prunella.prune_folder(params, teacher=teacher, student="sd-tiny", out="pruned")
    report = prunella.distill(params, teacher=teacher, latents=latents, student=student, out="distilled")
    assert report["steps"] == 2 and report["heldout"]["output"] > 0
    assert (tmp_path / "distilled-curves").is_dir() and (tmp_path / "work" / "distill").is_dir()
    tuning = params.model_copy(update={"finetune": params.finetune.model_copy(update={"caption_keywords": []})})
    assert prunella.finetune(tuning, latents=latents, student="distilled", out="finetuned")["pairs"] == 22
    pipeline = prunella.load_student("finetuned", device="cpu")
    first, second = prunella.sample(pipeline, ["a ring", "a heart"], steps=2, seed=5)
    assert first.size == (32, 32)
    again = prunella.sample("finetuned", "a ring", steps=2, seed=5)
    assert len(again) == 1 and np.abs(np.asarray(again[0], int) - np.asarray(first, int)).max() <= 1
    assert np.asarray(first).tolist() != np.asarray(second).tolist()


def test_what_cannot_be_is_said_before_any_work(params, teacher, pruned_tiny):
    with pytest.raises(UserError, match=r"no folder|has no unet"):
        prunella.encode(params, teacher="nowhere", out="data")
    with pytest.raises(UserError, match="did you mean 'sd-tiny'"):
        prunella.prune_folder(params, teacher=teacher, student="sd-tny", out="pruned")
    with pytest.raises(UserError, match="no diffusers pipeline folder"):
        prunella.sample("nowhere", "a ring")
    with pytest.raises(UserError, match="size: 30; a multiple of 4"):
        prunella.sample(pruned_tiny, "a ring", size=30)
    taught = params.finetune.model_copy(update={"output_weight": 0.5})
    with pytest.raises(UserError, match="name its folder as teacher="):
        prunella.finetune(params.model_copy(update={"finetune": taught}), latents="l", student="s", out="o")
