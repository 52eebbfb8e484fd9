"""What later stages would refuse, refused before them; each case is one that is sound but for the one thing."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import toy_params
from stored import put

from prunella.encoding.encode import size_multiple, vae_scale_factor
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.models.pipeline import load_unet
from prunella.params import Params, validate_config
from prunella.pipeline import disk_estimate
from prunella.pipeline.preflight import check_filtered_samples, check_parameters, check_run, find_teacher_config
from prunella.training import memory_estimate

SET = {
    "prompts": "",
    "samples": 3,
    "images_per_prompt": 1,
    "model": "models/teacher.json",
    "id": None,
    "revision": "main",
}
SET |= {"negative_prompt": "", "guidance_scale": 3.0, "scheduler": None, "num_inference_steps": 2, "sizes": [[32, 32]]}
SET |= {"batch_size": 2, "precision": "fp32", "storage": "fp32", "seed": 0, "store": None}


@pytest.fixture
def content(teacher, pictures) -> dict:
    return toy_params(teacher, pictures)


def made(content: dict) -> Params:
    return validate_config(Params, content, "params.yaml")


def refused(content: dict) -> str:
    with pytest.raises(UserError) as caught:
        check_parameters(made(content))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_parameters_are_not_refused(content, capsys):
    check_parameters(made(content))
    assert "will not be measured" not in capsys.readouterr().out


def test_what_a_metric_looks_through_is_missed_before_anything_runs(content, capsys):
    content["benchmark"]["metrics"] = ["composition", "kid"]
    check_parameters(made(content))
    said = capsys.readouterr().out
    assert said.startswith("benchmark.metrics: kid will not be measured: needs benchmark.backbones.inception; `curl ")
    assert said.count("\n") == 1


def test_a_file_of_prompts_that_is_none(content, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"promt": "a heart"}')
    content["benchmark"] |= {"prompts_from": "file", "prompt_file": str(tmp_path / "own.jsonl")}
    assert "line 1 has no prompt, text or caption" in refused(content)


@pytest.mark.parametrize("key", ["teacher.path", "filter.path", "filter.aesthetic.clip"])
def test_a_path_that_leads_nowhere_is_named(content, key):
    section, name = content, key.split(".")
    for each in name[:-1]:
        section = section[each]
    if "aesthetic" in key:
        section |= {"model": content["teacher"]["path"]}
    section[name[-1]] = "no/where"
    assert refused(content).startswith(f"{key}: there is no no/where (seen from ")


def test_pairs_alone_may_lie_on_a_store(content, pictures):
    content["filter"]["path"] = put(pictures, "refusals/pictures")
    check_parameters(made(content))
    content["filter"]["path"] = "memory://refusals/none"
    assert refused(content) == "filter.path: there is no memory://refusals/none"
    content["filter"]["path"] = "s4://refusals/none"
    assert refused(content) == "filter.path: s4://refusals/none: no such kind of store; s3:// and gs:// are known"
    content["filter"]["path"] = "memory://refusals/pictures"
    content["encode"]["store"] = "memory://refusals/shards"  # which need not be there yet
    check_parameters(made(content))
    content["encode"]["store"] = "s4://refusals/shards"
    assert refused(content).startswith("encode.store: s4://refusals/shards: no such kind of store")
    content["encode"]["store"] = None
    content["filter"] |= {"path": "memory://refusals/pictures", "source": "scenes"}
    assert refused(content).startswith("filter.path: memory://refusals/pictures is on a store; only pairs are read")
    content["teacher"]["path"] = "memory://refusals/pictures"
    assert refused(content).startswith("teacher.path: memory://refusals/pictures is on a store; only pairs are read")


def test_a_path_that_the_hub_does_not_need_must_be_there_for_dvc(content):
    content["filter"] |= {"source": "hub", "id": "a/b", "path": "no/where"}
    assert "source hub does not read it" in refused(content)


def test_paths_of_sets_and_bases_of_fine_tuning_are_looked_at_too(content):
    own = {"filter": content["filter"] | {"source": "folder"}, "encode": content["encode"]}
    base = {"model": content["teacher"] | {"source": "hub", "id": "a/b", "path": "no/where"}, "data": "dog"}
    content["finetune"] |= {"data": {"dog": own}, "base": {"theirs": base}}
    said = refused(content)
    assert said.startswith("finetune.base.theirs.model.path: there is no no/where") and "hub does not read it" in said
    base["model"]["path"] = content["teacher"]["path"]
    check_parameters(made(content))
    own["filter"]["path"] = "none"
    assert refused(content).startswith("finetune.data.dog.filter.path: there is no none")


def test_what_the_run_generates_itself_need_not_be_there(content):
    content["filter"] |= {"source": "generated", "path": "data/generated/mine"}
    assert "data/generated/mine" in refused(content)
    content["generate"] = {"mine": SET | {"prompts": content["teacher"]["path"]}}
    check_parameters(made(content))
    content["generate"]["mine"]["store"] = "s4://pictures"
    assert refused(content) == "generate.mine.store: s4://pictures: no such kind of store; s3:// and gs:// are known"
    content["generate"]["mine"] |= {"store": None, "prompts": "no/where"}
    assert refused(content).startswith("generate.mine.prompts: there is no no/where")


def test_batches_that_processes_cannot_share_and_pairs_that_are_too_few(content):
    content["runtime"]["processes"] = 2
    content["finetune"]["batch_size"] = 7
    content["distill"]["batch_size"] = 8
    assert refused(content) == "finetune.batch_size: 7 is no multiple of runtime.processes, 2"
    content["finetune"]["batch_size"] = 8
    content["encode"]["heldout"] = content["filter"]["samples"] = 29
    assert refused(content).startswith("encode.heldout: 29 pairs are to be held out, but filter.samples takes 29")


def test_an_optimizer_that_is_not_installed(content, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    content["finetune"]["optimizer"] = "adamw-8bit"
    assert refused(content).startswith("finetune.optimizer: ")


def test_every_student_must_fit_the_teacher(content, xl_teacher):
    content["students"] = ["sd-tiny", "ssd-1b"]
    assert "ssd-1b" in refused(content)
    content["students"] = ["ssd-1b"]
    content["teacher"]["path"] = str(xl_teacher)
    check_parameters(made(content))


def test_a_published_student_teaches_students_that_keep_less(content, pruned_tiny, pruned_xl, teacher):
    content["teacher"]["path"] = str(pruned_xl)
    content["students"] = ["segmind-vega"]
    check_parameters(made(content))
    content["students"] = ["koala-700m"]
    assert refused(content) == (
        "student koala-700m keeps layer 3 of down stage 2, pair 0 of a whole teacher; this teacher is a student "
        "itself, of the layout of ssd-1b (SSD-1B), and lacks that"
    )
    content["students"] = ["auto-tiny"]
    assert refused(content).startswith(
        "plan.students.auto-tiny: this teacher's UNet is a student itself, of the layout"
    )
    content["teacher"]["path"] = str(pruned_tiny)
    content["students"] = ["sd-tiny"]
    assert "keeps all that this teacher has" in refused(content)


def test_phases_of_a_published_student_begin_with_what_it_has(content, pruned_xl):
    content["teacher"]["path"] = str(pruned_xl)
    content["students"] = ["segmind-vega"]
    terms = {name: content["distill"][name] for name in ("learning_rate", "task_weight", "output_weight")}
    phase = terms | {"feature_weight": 0.5, "teacher": None}
    content["distill"] |= {
        "steps": 3,
        "phases": [phase | {"steps": 2, "plan": 0.2}, phase | {"steps": 1, "plan": None}],
    }
    assert refused(content).startswith("student segmind-vega (2 of 10 cuts) keeps ")  # cuts of a whole teacher


def test_a_hub_teacher_is_known_once_it_is_pinned_and_only_then(content, tmp_path):
    content["teacher"] |= {"source": "hub", "id": "a/b"}
    pinned = tmp_path / "teacher.json"
    assert find_teacher_config(made(content).teacher, pinned) is None
    pinned.write_text('{"source": "hub", "id": "a/b", "revision": "main", "unet": {"a": 1}}')
    assert find_teacher_config(made(content).teacher, pinned) == {"a": 1}
    content["teacher"]["revision"] = "other"
    assert find_teacher_config(made(content).teacher, pinned) is None


def test_words_are_counted_among_the_captions_to_train_on(content, teacher, manifest):
    content["finetune"]["caption_keywords"] = []
    pairs, said = check_filtered_samples(made(content), teacher, manifest)
    assert pairs == 22 and said.startswith(
        "22 captions to train on, 7 held out; finetune.caption_keywords: 22 and 7 of them"
    )
    content["finetune"]["caption_keywords"] = ["unheard-of"]
    with pytest.raises(UserError, match=r"finetune.caption_keywords: none of the 22 captions .* \['unheard-of'\]"):
        check_filtered_samples(made(content), teacher, manifest)
    content["finetune"] |= {
        "latents": "data/own/dog/latents",
        "data": {"dog": {"filter": content["filter"], "encode": content["encode"]}},
    }
    pairs, said = check_filtered_samples(made(content), teacher, manifest)  # its own set is not among them
    assert (pairs, said) == (22, "22 captions to train on, 7 held out")


def test_more_pairs_held_out_than_passed(content, teacher, manifest):
    content["encode"]["heldout"] = 29
    with pytest.raises(UserError, match=r"encode.heldout: 29 pairs .* only 29 passed"):
        check_filtered_samples(made(content), teacher, manifest)


def test_a_resolution_that_the_teacher_cannot_take(content, teacher):
    content["encode"]["resolution"] = 33
    with pytest.raises(UserError, match=r"encode.resolution: 33 is no multiple of 32"):
        check_run(made(content), teacher, 22)


def test_memory_and_disk_are_said_and_a_disk_that_is_too_small_refused(content, teacher, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    content["students"] = ["sd-tiny"]
    check_run(made(content), teacher, 22)
    said = capsys.readouterr().out
    assert "distill sd-tiny: " in said and "finetune sd-tiny: " in said and "hardly" not in said
    monkeypatch.setattr(memory_estimate, "device_memory", lambda device: 1_000_000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000_000))
    with pytest.raises(UserError, match=r"disk: .* GB are needed at .* for latents and the trainings' states"):
        check_run(made(content), teacher, 22)
    assert "that will hardly fit" in capsys.readouterr().out
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "state").open("wb") as state:
        state.truncate(10**10)  # what a run has written counts as room
    check_run(made(content), teacher, 22)


def test_latents_are_reckoned_as_encode_writes_them(content, teacher, latents):
    written = sum(path.stat().st_size for path in latents.glob("*.safetensors") if path.name[:5] in ("train", "heldo"))
    reckoned = disk_estimate.estimate_bytes(made(content), teacher, 29)["latents"]
    assert reckoned == pytest.approx(written, rel=0.1)


def test_others_models_take_room_as_well(content, teacher, pruned_tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    content["students"] = ["sd-tiny"]
    content["finetune"]["ema_decay"] = 0.0
    alone = disk_estimate.estimate_bytes(made(content), teacher, 22)
    own = {"filter": content["filter"] | {"source": "folder"}, "encode": content["encode"]}
    model = content["teacher"] | {"source": "folder", "path": str(pruned_tiny)}
    bases = {"theirs": {"model": model, "data": "dog"}}
    content["finetune"] |= {"data": {"dog": own}, "base": bases}
    beside = disk_estimate.estimate_bytes(made(content), teacher, 22)
    size = load_unet(pruned_tiny).num_parameters()
    assert beside["latents"] == alone["latents"]
    assert beside["states"] - alone["states"] == 4 * size * 4  # weights and two moments, and the best weights
    drawn = beside["pictures"] - alone["pictures"]
    assert drawn == 2 * alone["pictures"] / 4  # before and after, where the teacher and three of sd-tiny are four
    rest = sum(path.stat().st_size for path in pruned_tiny.glob("[!u]*/*.safetensors"))
    bits = disk_estimate.BYTES_PER_NUMBER[content["finetune"]["storage"]]
    assert beside["models"] - alone["models"] == pytest.approx(2 * bits * size + rest, rel=0.01)
    bases["far"] = {"model": model | {"source": "hub", "id": "a/b"}, "data": "dog"}
    check_run(made(content), teacher, 22)
    assert "disk: without finetune.base.far, which is in no folder here\n" in capsys.readouterr().out
    (odd := tmp_path / "odd" / "unet").mkdir(parents=True)
    (odd / "config.json").write_text("{}")
    model["path"] = str(odd.parent)
    with pytest.raises(UserError, match=r"^finetune\.base\.theirs\.model\.path: .*odd is no Stable Diffusion"):
        check_run(made(content), teacher, 22)


def test_a_teachers_factors_are_those_of_its_parts(teacher):
    factor = Encoders(Path(teacher), "cpu").vae_scale_factor
    assert vae_scale_factor(teacher) == factor == 4
    assert size_multiple(teacher) == 32
