"""Phases at toy size: sd-tiny in succession from sd-small, or cut by cut, its rate and weights changing at a border."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import DISTILLING, asked
from diffusers import UNet2DConditionModel
from killing import killed
from safetensors.torch import load_file, save_file

from prunella.compute.device import Placement
from prunella.compute.resume import DONE_FILE, json_digest
from prunella.errors import UserError
from prunella.models.pipeline import load_unet
from prunella.models.teacher import pin_teacher
from prunella.params import Distill, validate_config
from prunella.pruning.plan import SHIPPED_PLANS, STUDENTS, read_plan
from prunella.pruning.within import keep_same_blocks
from prunella.training import checkpoint, phases, trainer
from prunella.training.distill import distill
from prunella.training.phase_refs import write_phase_refs

TERMS = {"task_weight": 1.0, "output_weight": 0.5, "feature_weight": 0.5}
SHARED = TERMS | {"learning_rate": 3e-3}


def phase(steps: int, plan: object = None, **changes) -> dict:
    return {"steps": steps, "plan": plan, "teacher": None} | SHARED | changes


def distilling(*parts: dict, **changes) -> Distill:
    steps = sum(part["steps"] for part in parts) or 5
    return validate_config(
        Distill, DISTILLING | {"steps": steps, "learning_rate": 3e-3, "phases": list(parts)} | changes, "distill"
    )


@pytest.fixture
def learn(teacher, latents, pruned_tiny, tmp_path, monkeypatch):
    def run(params: Distill, name: str = "out", **changes) -> dict:
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))
        given = {"teacher": teacher, "latents": latents, "student": pruned_tiny, "observer": None}
        paths = {"out": tmp_path / name / "sd-tiny", "curves": tmp_path / name / "curves"}
        return distill(params, **given | paths | {"placement": Placement(), "checkpoint_every": 1} | changes)

    return run


def weights(folder: Path) -> bytes:
    return (folder / "sd-tiny" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


def curve(folder: Path, split: str) -> list[dict]:
    """The rows of a table without their times."""
    with (folder / "curves" / f"{split}.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_without_phases_the_section_and_its_folder_are_what_they_were(learn, tmp_path):
    params = distilling()
    before = {name: value for name, value in DISTILLING.items() if name != "phases"}
    assert params.model_dump() == before | {"steps": 5, "learning_rate": 3e-3, "betas": (0.9, 0.999)}
    learn(params)
    (noted,) = (tmp_path / "out" / "work" / "distill").glob("*/identity.json")
    known = json.loads(noted.read_text())
    assert "phases" not in known["params"]
    assert noted.parent.name == json_digest([known["params"], known["inputs"], 0])


def test_one_phase_is_the_training_without_any_to_the_bit(learn, tmp_path):
    plain, phased = learn(distilling(), "plain"), learn(distilling(phase(5)), "phased")
    assert weights(tmp_path / "plain") == weights(tmp_path / "phased")
    for split in ("train", "heldout"):
        assert curve(tmp_path / "plain", split) == curve(tmp_path / "phased", split)
    assert phased["heldout"] == plain["heldout"] == phased["phases"]["1"]["heldout"]


def test_a_border_where_nothing_changes_changes_no_bit(learn, tmp_path):
    """So all of the state crosses it: weights, moments, average, schedule, batches and noise."""
    changes = {"evaluate_every": 2, "gradient_accumulation_steps": 2, "feature_weight": [[0.0, 1.0], [1.0, 0.25]]}
    same = {"feature_weight": changes["feature_weight"]}
    learn(distilling(phase(2, **same), phase(3, 1.0, **same), **changes), "two")
    learn(distilling(phase(5, **same), **changes), "one")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    for split in ("train", "heldout"):
        assert curve(tmp_path / "one", split) == curve(tmp_path / "two", split)


PROGRESSIVE = (phase(2, 0.4), phase(2, "sd-tiny", learning_rate=1e-3, feature_weight=0.25), phase(1, output_weight=1.0))
POINTS = {
    "in the first phase": (checkpoint, "save", 2),
    "at the end of the first phase": (checkpoint, "save", 5),
    "crossing a border": (phases, "slice_state", 1),
    "half a crossing": (checkpoint, "sha256", 8),
    "behind a border": (checkpoint, "save", 7),
    "crossing another": (phases, "slice_state", 2),
    "writing the result": (trainer, "save_pipeline", 1),
}


@pytest.fixture(scope="module")
def whole(teacher, latents, pruned_tiny, tmp_path_factory) -> tuple[Path, dict]:
    """What three phases give that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        report = distill(
            distilling(*PROGRESSIVE),
            teacher=teacher,
            latents=latents,
            student=pruned_tiny,
            out=folder / "sd-tiny",
            curves=folder / "curves",
            placement=Placement(),
            checkpoint_every=1,
        )
    return folder, report


QUICK = ("crossing a border", "half a crossing")


@pytest.mark.parametrize(
    "point", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in POINTS]
)
def test_killed_on_either_side_of_a_border_it_ends_at_the_same_bits(learn, whole, tmp_path, point):
    with killed(*POINTS[point]):
        learn(distilling(*PROGRESSIVE), "resumed")
    report = learn(distilling(*PROGRESSIVE), "resumed")
    assert weights(whole[0]) == weights(tmp_path / "resumed")
    for split in ("train", "heldout"):
        assert curve(whole[0], split) == curve(tmp_path / "resumed", split)
    assert report["phases"] == whole[1]["phases"] and report["best"] == whole[1]["best"]


def test_each_phase_has_its_plan_and_one_curve_goes_through_all(whole, teacher, pruned_tiny):
    folder, report = whole
    small, tiny = (UNet2DConditionModel.from_config(load_unet(path).config) for path in (teacher, pruned_tiny))
    told = report["phases"]
    assert [entry["plan"] for entry in told.values()] == ["sd-tiny (2 of 5 cuts)", "sd-tiny", "sd-tiny"]
    sizes = [entry["params"] for entry in told.values()]
    assert small.num_parameters() > sizes[0] > sizes[1] == sizes[2] == tiny.num_parameters()
    assert [row["step"] for row in curve(folder, "train")] == ["1", "2", "3", "4", "5"]
    heldout = curve(folder, "heldout")
    assert [row["step"] for row in heldout] == ["0", "1", "2", "3", "4", "5"]
    assert [entry["heldout"]["output"] for entry in told.values()] == [
        float(heldout[step]["output"]) for step in (2, 4, 5)
    ]
    assert report["best"]["step"] >= 5  # the best of the last phase, whatever a larger student has measured
    assert keep_same_blocks(read_plan(folder / "sd-tiny" / "unet" / "plan.yaml"), STUDENTS["sd-tiny"])
    assert load_unet(folder / "sd-tiny").config["down_block_types"] == tiny.config["down_block_types"]
    assert (next((folder / "work" / "distill").glob("*/")) / DONE_FILE).is_file()


def test_what_stays_crosses_a_border_with_its_moments_and_average(learn, tmp_path, monkeypatch):
    seen = []
    real = phases.slice_state
    monkeypatch.setattr(phases, "slice_state", lambda *given: seen.append((given[0], real(*given))) or seen[-1][1])
    learn(distilling(phase(2, "sd-small"), phase(1, learning_rate=5e-4), lr_scheduler="constant", lr_warmup_steps=0))
    ((before, after),) = seen
    # By hand: without stage 3 sd-tiny's first up stage is sd-small's second, and its mid block is gone.
    ours, theirs = "up_blocks.0.resnets.1.conv1.weight", "up_blocks.1.resnets.1.conv1.weight"
    assert torch.equal(after["model"][ours], before["model"][theirs])
    assert not any(name.startswith("mid_block") for name in after["model"])
    places = [list(state["model"]).index(name) for state, name in ((after, ours), (before, theirs))]
    for moment in ("exp_avg", "exp_avg_sq"):
        kept, was = (
            state["optimizer"]["state"][place][moment] for state, place in zip((after, before), places, strict=True)
        )
        assert torch.equal(kept, was) and kept.abs().sum() > 0
    averages = [state["ema"]["shadow_params"][place] for state, place in zip((after, before), places, strict=True)]
    assert torch.equal(*averages) and not torch.equal(averages[0], after["model"][ours])
    assert after["optimizer"]["param_groups"][0]["lr"] == 5e-4 and before["optimizer"]["param_groups"][0]["lr"] == 3e-3


def test_a_phase_learns_at_its_own_rate_and_by_its_own_weights(learn, tmp_path):
    changed = {"learning_rate": 1e-3, "feature_weight": 0.0, "output_weight": 2.0}
    learn(distilling(phase(2), phase(1, **changed), lr_scheduler="constant"))
    first, second, third = curve(tmp_path / "out", "train")
    assert "feature/up_blocks.0" in first and not third["feature/up_blocks.0"]
    total = float(third["task"]) + 2.0 * float(third["output"])
    assert float(third["loss"]) == pytest.approx(total)
    learn(distilling(phase(3), lr_scheduler="constant"), "same")
    assert curve(tmp_path / "same", "train")[:2] == [first, second]


@pytest.mark.parametrize(
    ("plans", "said"),
    [
        (
            ("sd-tiny", "sd-small"),
            r"distill\.phases\.1\.plan: sd-small keeps more of the mid block, which sd-tiny does",
        ),
        (
            (0.5, "sd-small", None),
            r"distill\.phases\.1\.plan: sd-small keeps more of the mid block, which sd-tiny .3 of",
        ),
        (("sd-small",), r"distill\.phases\.0\.plan: sd-small is not what student sd-tiny keeps; the last"),
        (("sd-smal", None), r"distill\.phases\.0\.plan: no plan is called 'sd-smal'; did you mean 'sd-small'"),
        (("ssd-1b", None), r"distill\.phases\.1\.plan: sd-tiny keeps blocks of family 'sd', which ssd-1b does not"),
    ],
)
def test_plans_that_do_not_follow_are_refused_by_phase(learn, plans, said):
    with pytest.raises(UserError, match=said) as caught:
        learn(distilling(*(phase(1, plan) for plan in plans)))
    assert "\n" not in str(caught.value)


def other(teacher: Path, folder: Path, name: str) -> Path:
    """A teacher like the first but for its UNet, which is random; pinned."""
    shutil.copytree(teacher, folder / name)
    torch.manual_seed(7)
    UNet2DConditionModel.from_config(load_unet(teacher).config).save_pretrained(folder / name / "unet")
    return pinned(folder / name, folder)


def pinned(path: Path, folder: Path) -> Path:
    file = folder / "teachers" / f"{path.name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(pin_teacher(asked(path))))
    return file


@pytest.fixture
def named(teacher, tmp_path):
    """A function from phases to the file of what they name: teachers `copy`, as the first, and `other`."""
    shutil.copytree(teacher, tmp_path / "copy")
    pinned(tmp_path / "copy", tmp_path)
    other(teacher, tmp_path, "other")
    first = pinned(teacher, tmp_path)

    def write(params: Distill, out: str = "phases.json") -> Path:
        write_phase_refs(params.phases, first, tmp_path / "teachers", tmp_path / "plans", tmp_path / out)
        return tmp_path / out

    return write


def test_teachers_follow_one_another_in_one_training(learn, named, tmp_path):
    """The second teaches from the border on; where it is the first again, nothing changes."""
    ends = {"one": phase(4), "copy": phase(2, teacher="copy"), "other": phase(2, teacher="other")}
    for name, second in ends.items():
        params = distilling(*([phase(2)] if name != "one" else []), second, lr_scheduler="constant")
        learn(params, name, phases=named(params, f"{name}.json"))
    assert weights(tmp_path / "one") == weights(tmp_path / "copy") != weights(tmp_path / "other")
    copy, other = (curve(tmp_path / name, "train") for name in ("copy", "other"))
    assert copy == curve(tmp_path / "one", "train") and copy[:2] == other[:2]
    assert copy[2]["task"] == other[2]["task"] and copy[2]["output"] != other[2]["output"]  # same weights, other lesson
    heldout = curve(tmp_path / "other", "heldout")
    assert [row["step"] for row in heldout] == ["0", "1", "2", "3", "4"]


def test_a_teacher_of_other_noise_latents_or_texts_is_refused_with_the_reason(teacher, named, tmp_path):
    for part, config in (("vae", "scaling_factor"), ("scheduler", "beta_end")):
        folder = shutil.copytree(teacher, tmp_path / f"no-{part}")
        file = next((folder / part).glob("*config.json"))
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {config: 0.02}))
        pinned(folder, tmp_path)
    folder = shutil.copytree(teacher, tmp_path / "no-texts")
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("fc1.weight"))
    save_file(tensors | {name: tensors[name] + 1}, file, {"format": "pt"})
    pinned(folder, tmp_path)
    said = {"no-vae": "another VAE", "no-scheduler": "another noise schedule", "no-texts": "other text encoders"}
    for name, reason in said.items():
        with pytest.raises(UserError) as caught:
            named(distilling(phase(2), phase(1, teacher=name)))
        assert str(caught.value) == (
            f"distill.phases.1.teacher: {name} cannot follow the first teacher, whose latents and texts are learned "
            f"from: it has {reason}"
        )
    assert not (tmp_path / "phases.json").exists()


def test_a_plan_of_ones_own_is_kept_by_its_content(named, tmp_path):
    (tmp_path / "plans").mkdir()
    text = (SHIPPED_PLANS / "sd-small.yaml").read_text().replace("name: sd-small", "name: mine")
    (tmp_path / "plans" / "mine.yaml").write_text(text)
    written = named(distilling(phase(2, "mine"), phase(1))).read_text()
    (tmp_path / "plans" / "unused.yaml").write_text(text.replace("mine", "unused"))
    assert named(distilling(phase(2, "mine"), phase(1))).read_text() == written and '"mine"' in written
