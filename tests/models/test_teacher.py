import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import asked
from safetensors.torch import load_file, save_file
from singlefile import single

from prunella.errors import UserError
from prunella.models.pipeline import check_teacher_weights, load_pipeline, resolve_teacher_dir
from prunella.models.teacher import pin_base_model, pin_teacher, read_pin
from prunella.params import ModelSource
from prunella.pruning.layout import is_student


def test_a_teacher_is_pinned_by_its_files(teacher):
    pinned = pin_teacher(asked(teacher))
    assert (pinned["family"], pinned["prediction_type"]) == ("sd", "v_prediction")
    assert pinned["unet"]["block_out_channels"] == [32, 64, 128, 128]
    assert "unet/diffusion_pytorch_model.safetensors" in pinned["files"]
    assert all(len(digest) == 64 for digest in pinned["files"].values())


def test_one_changed_byte_changes_the_pin(own_teacher):
    before = pin_teacher(asked(own_teacher))["files"]
    path = own_teacher / "vae" / "config.json"
    path.write_text(path.read_text() + " ")
    after = pin_teacher(asked(own_teacher))["files"]
    assert {name for name in before if before[name] != after[name]} == {"vae/config.json"}


def test_the_path_is_read_back(tmp_path, teacher):
    (tmp_path / "teacher.json").write_text(json.dumps(pin_teacher(asked(teacher))))
    assert resolve_teacher_dir(tmp_path / "teacher.json") == teacher


def test_what_is_no_teacher_is_said_in_one_line(own_teacher, tmp_path):
    def refused(path) -> str:
        with pytest.raises(UserError) as caught:
            pin_teacher(asked(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no folder" in refused(tmp_path / "none")
    assert "has no unet/config.json, so it is no diffusers pipeline folder" in refused(tmp_path)
    config = own_teacher / "unet" / "config.json"
    sound = json.loads(config.read_text())
    config.write_text(json.dumps(sound | {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}))
    assert (
        "is no Stable Diffusion: its UNet is a UNet2DConditionModel with down blocks DownBlock2D, AttnDownBlock2D"
        in refused(own_teacher)
    )
    config.write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    said = refused(own_teacher)
    assert (
        "its UNet is a FluxTransformer2DModel with no down blocks; known families: sd (Stable Diffusion 1.x or" in said
    )
    config.write_text("{")
    assert "not valid JSON" in refused(own_teacher)


WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_weight_file_that_is_cut_off(own_teacher):
    path = own_teacher / "unet" / WEIGHTS
    whole = path.read_bytes()
    for size in (5, 1000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=f"unet/{WEIGHTS}: is (no whole safetensors file: |cut off: ){size} "):
            pin_teacher(asked(own_teacher))
    path.write_bytes((9).to_bytes(8, "little") + b"not json!" + whole)
    with pytest.raises(UserError, match=f"{WEIGHTS}: is no safetensors file: its header is not valid JSON"):
        pin_teacher(asked(own_teacher))
    path.unlink()
    with pytest.raises(UserError, match=rf"unet: holds no weights; {WEIGHTS} is expected there"):
        pin_teacher(asked(own_teacher))


def test_shards_that_do_not_fit_their_index(own_teacher):
    folder = own_teacher / "unet"
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:100], "b.safetensors": names[100:]}
    for shard, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / shard)
    index = folder / f"{WEIGHTS}.index.json"
    places = {key: shard for shard, keys in shards.items() for key in keys}
    index.write_text(json.dumps({"weight_map": places}))
    pin_teacher(asked(own_teacher))

    index.write_text(json.dumps({"weight_map": places | {"conv_middle.weight": "b.safetensors"}}))
    with pytest.raises(UserError, match=r"b.safetensors: has no conv_middle.weight \(1 missing in all\)"):
        pin_teacher(asked(own_teacher))
    index.write_text(json.dumps({"weight_map": places}))
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b.safetensors: is missing; .*index.json says that weights are in it"):
        pin_teacher(asked(own_teacher))
    index.write_text("[]")
    with pytest.raises(UserError, match=r"index.json: is no index of weights"):
        pin_teacher(asked(own_teacher))


def test_pickles_are_refused_unless_allowed(own_teacher):
    path = own_teacher / "unet" / WEIGHTS
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(UserError, match=r"\.bin: is a pickle, and loading one can run any code .*allow_pickle: true"):
        pin_teacher(asked(own_teacher))
    pinned = pin_teacher(asked(own_teacher, allow_pickle=True))
    assert "unet/diffusion_pytorch_model.bin" in pinned["files"]
    with pytest.raises(UserError, match=r"sd.ckpt: is a pickle"):
        (own_teacher / "sd.ckpt").touch()
        pin_teacher(asked(own_teacher / "sd.ckpt", source="file"))


# The Hub, by its local cache: no network here.


@pytest.fixture
def cache(teacher, tmp_path, monkeypatch) -> Path:
    """A Hub cache that holds the toy teacher as `me/toy`, its main at commit 000…0."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--me--toy"
    shutil.copytree(teacher, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return repository


def hub(name: str = "me/toy", revision: str = "main") -> ModelSource:
    return asked("unused", source="hub", id=name, revision=revision)


def test_a_hub_teacher_is_pinned_to_its_commit(cache, tmp_path):
    pinned = pin_teacher(hub())
    assert (pinned["id"], pinned["revision"], pinned["commit"]) == ("me/toy", "main", "0" * 40)
    assert "path" not in pinned and "unet/config.json" in pinned["files"]
    (tmp_path / "teacher.json").write_text(json.dumps(pinned))
    assert resolve_teacher_dir(tmp_path / "teacher.json") == cache / "snapshots" / ("0" * 40)


def test_the_commit_stays_when_the_branch_moves_on(cache):
    first = pin_teacher(hub())
    shutil.copytree(cache / "snapshots" / ("0" * 40), cache / "snapshots" / ("1" * 40))
    (cache / "refs" / "main").write_text("1" * 40)
    assert pin_teacher(hub(), first)["commit"] == "0" * 40
    assert pin_teacher(hub())["commit"] == "1" * 40
    assert pin_teacher(hub(), first | {"id": "me/other"})["commit"] == "1" * 40


def test_offline_and_not_in_the_cache(cache):
    with pytest.raises(UserError, match=r"me/none at 'main' is not in the local cache, .* teacher.source: folder"):
        pin_teacher(hub("me/none"))
    with pytest.raises(UserError, match=r"teacher.id: 'a/b/c' is no Hub id such as 'owner/model'"):
        pin_teacher(hub("a/b/c"))


# Checkpoints of one file.


@pytest.fixture(scope="module")
def checkpoints(teacher, xl_teacher, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """By kind: a checkpoint of one file, and the pipeline folder that it was made from."""
    folders, made = {"sd1": teacher, "sd2": teacher, "sdxl": xl_teacher}, {}
    for kind, folder in folders.items():
        made[kind] = tmp_path_factory.mktemp("single") / f"{kind}.safetensors", folder
        save_file(single(load_pipeline(folder), two=kind == "sd2"), made[kind][0])
    return made


@pytest.mark.parametrize(("kind", "family"), [("sd1", "sd"), ("sd2", "sd"), ("sdxl", "sdxl")])
def test_a_single_file_becomes_the_same_pipeline(checkpoints, kind, family, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    checkpoint, origin = checkpoints[kind]
    pinned = pin_teacher(asked(checkpoint, source="file", config=str(origin)))
    assert (pinned["family"], list(pinned["files"])) == (family, [checkpoint.name])
    (tmp_path / "teacher.json").write_text(json.dumps(pinned))
    folder = resolve_teacher_dir(tmp_path / "teacher.json")
    assert folder.is_relative_to(tmp_path / "work" / "teachers")
    whole, original = load_pipeline(folder), load_pipeline(origin)
    assert type(whole) is type(original) and dict(whole.scheduler.config) == dict(original.scheduler.config)
    parts = ["unet", "vae", "text_encoder"] + (["text_encoder_2"] if family == "sdxl" else [])
    for part in parts:
        expected = getattr(original, part).state_dict()
        found = getattr(whole, part).state_dict()
        assert set(found) == set(expected)
        assert all(torch.equal(found[name].float(), expected[name].float()) for name in expected), part
    # Turned once: found again, even when the file is gone.
    assert resolve_teacher_dir(tmp_path / "teacher.json") == folder
    # With other configs the same file makes another pipeline.
    (tmp_path / "teacher.json").write_text(json.dumps(pinned | {"prediction_type": "sample"}))
    assert resolve_teacher_dir(tmp_path / "teacher.json") != folder


def test_a_single_file_that_changed_since_it_was_pinned(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    checkpoint, teacher = checkpoints["sd1"]
    own = Path(shutil.copy2(checkpoint, tmp_path))
    (tmp_path / "teacher.json").write_text(json.dumps(pin_teacher(asked(own, source="file", config=str(teacher)))))
    own.write_bytes(own.read_bytes() + b" ")
    with pytest.raises(UserError, match="is not the file that was pinned; run the teacher stage again"):
        resolve_teacher_dir(tmp_path / "teacher.json")


def test_what_is_no_checkpoint_of_one_file(tmp_path, teacher):
    with pytest.raises(UserError, match="there is no file"):
        pin_teacher(asked(tmp_path / "none.safetensors", source="file"))
    with pytest.raises(UserError, match=r"is no Stable Diffusion checkpoint of one file: it has no text encoder"):
        pin_teacher(asked(teacher / "unet" / WEIGHTS, source="file"))


@pytest.mark.parametrize(
    ("kind", "original"),
    [
        ("sd1", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd2", "stabilityai/stable-diffusion-2-1"),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
    ],
)
def test_without_configs_the_originals_are_asked_for(checkpoints, cache, kind, original):
    with pytest.raises(UserError, match=rf"teacher.config: {original} at 'main' is not in .* teacher.config: FOLDER"):
        pin_teacher(asked(checkpoints[kind][0], source="file"))


@pytest.mark.parametrize("content", [None, "", '{"id": ', "[]", "\x80"])
def test_what_an_earlier_run_left_half_written_is_nothing(tmp_path, content):
    path = tmp_path / "teacher.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    assert read_pin(path) == {}
    path.write_text('{"id": "a/b"}')
    assert read_pin(path) == {"id": "a/b"}


@pytest.mark.parametrize(("model", "family"), [("pruned_tiny", "sd"), ("pruned_xl", "sdxl"), ("teacher", "sd")])
def test_a_base_of_finetuning_may_be_a_student(request, model, family):
    folder = request.getfixturevalue(model)
    pinned = pin_base_model(asked(folder), {}, "finetune.base.theirs.model")
    check_teacher_weights(pinned)
    assert (pinned["family"], pinned["student"]) == (family, model != "teacher")
    if pinned["student"]:
        with pytest.raises(UserError, match=r"^teacher\.path: .* is no Stable Diffusion: its UNet is a "):
            pin_teacher(asked(folder))


@pytest.mark.parametrize(("model", "family"), [("pruned_tiny", "sd"), ("pruned_xl", "sdxl"), ("teacher", "sd")])
def test_a_teacher_may_be_a_student_of_a_known_layout(request, model, family, tmp_path):
    folder = request.getfixturevalue(model)
    pinned = pin_teacher(asked(folder), accepts_student=is_student)
    check_teacher_weights(pinned)
    assert pinned["family"] == family and set(pinned) == set(pin_base_model(asked(folder), {}, "any")) - {"student"}
    odd = Path(shutil.copytree(folder, tmp_path / "odd"))
    config = json.loads((odd / "unet" / "config.json").read_text())
    (odd / "unet" / "config.json").write_text(json.dumps(config | {"layers_per_block": 3}))
    with pytest.raises(UserError, match=r"^teachers\.odd\.path: .* is no Stable Diffusion: its UNet is a .* 3 pairs"):
        pin_teacher(asked(odd), param_key="teachers.odd", accepts_student=is_student)


def test_a_base_that_is_none_is_named_by_its_own_key(tmp_path):
    with pytest.raises(UserError, match=r"^finetune\.base\.theirs\.model\.path: there is no folder"):
        pin_base_model(asked(tmp_path / "none"), {}, "finetune.base.theirs.model")
