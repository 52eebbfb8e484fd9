"""Sets of fine-tuning's own, through the doors of the stages."""

import json

import inprocess
import pytest
import yaml
from conftest import LEARNING, toy_params

from prunella.latents.shards import LatentDataset

OWN = "data/own/red/latents"


def stage(name: str, **places: object) -> None:
    inprocess.run([f"stages/{name}.py", *(word for key, place in places.items() for word in (f"--{key}", str(place)))])


@pytest.fixture
def folder(teacher, pictures, tmp_path, monkeypatch):
    content = toy_params(teacher, pictures)
    filtering = {"source": "folder", "path": str(pictures), "caption": "a red thing", "samples": 11}
    entry = {"filter": filtering, "encode": {"heldout": 3, "text": "tokens"}}
    content["finetune"] |= {"data": {"red": entry}, "latents": OWN, "caption_keywords": [], "method": "lora"} | {
        name: LEARNING[name] for name in ("steps", "batch_size")
    }
    content["finetune"]["lora"]["text_encoder"] = True
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def filtered(name: str = "red") -> None:
    stage("filter", own=name, out="data/own/red/filtered", report="f.json", examples="examples", counts="f.csv")


def tuned(student: object, out: str) -> None:
    places = {"latents": OWN, "student": student, "out": out, "curves": "curves", "report": "t.json"}
    stage("finetune", teacher="teacher.json", **places)


def test_a_set_is_filtered_encoded_and_learned_from_by_its_own_words(folder, pruned_tiny):
    stage("teacher", out="teacher.json")
    filtered()
    stage("encode", own="red", teacher="teacher.json", pairs="data/own/red/filtered", out=OWN, report="e.json")
    train = LatentDataset(folder / OWN, "train", lambda tokens: tokens)
    assert (len(train), set(train.captions), train.manifest["text"]) == (8, {"a red thing"}, "tokens")
    stage(
        "finetune",
        teacher="teacher.json",
        latents=OWN,
        student=pruned_tiny,
        out="models/red",
        curves="curves",
        report="t.json",
    )
    assert json.loads((folder / "t.json").read_text())["pairs"] == 8
    assert (folder / "models" / "red" / "pytorch_lora_weights.safetensors").is_file()


def test_a_set_that_is_none(folder):
    with pytest.raises(SystemExit, match=r"filter: finetune\.data: no entry is called 'rde'; did you mean 'red'\?"):
        filtered("rde")


def test_anothers_student_is_pinned_and_tuned_on_pictures_of_its_own_vae(folder, pruned_tiny):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    model = {"source": "folder", "path": str(pruned_tiny)}
    content["finetune"] |= {"base": {"theirs": {"model": model, "data": "red"}}, "latents": "data/latents"}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    stage("teacher", out="teacher.json")
    stage("base", out="models/bases/theirs.json")
    pinned = json.loads((folder / "models/bases/theirs.json").read_text())
    assert (pinned["family"], pinned["student"], len(pinned["unet"]["down_block_types"])) == ("sd", True, 3)
    filtered()
    stage("encode", own="red", teacher="models/bases/theirs.json", pairs="data/own/red/filtered", out=OWN, report="e")
    stage(
        "finetune",
        teacher="teacher.json",
        latents=OWN,
        student="models/bases/theirs.json",
        out="models/theirs",
        curves="c",
        report="t.json",
    )
    assert (folder / "models" / "theirs" / "model_index.json").is_file()


def test_a_base_that_is_none_is_said_by_its_own_key(folder):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    model = {"source": "folder", "path": str(folder)}
    content["finetune"]["base"] = {"theirs": {"model": model, "data": "red"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        SystemExit, match=r"base: finetune\.base\.theirs\.model\.path: .* so it is no diffusers pipeline"
    ):
        stage("base", out="models/bases/theirs.json")
