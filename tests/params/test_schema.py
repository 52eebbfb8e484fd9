import pytest
import yaml
from conftest import ROOT
from pydantic import BaseModel

from prunella.errors import UserError
from prunella.params import Params, read_params, validate_config


@pytest.fixture
def content() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def refused(content) -> str:
    with pytest.raises(UserError) as caught:
        validate_config(Params, content, "params.yaml")
    return str(caught.value)


def test_the_committed_file_is_sound_and_has_the_published_weights():
    params = read_params(ROOT / "params.yaml")
    assert (params.distill.task_weight, params.distill.output_weight, params.distill.feature_weight) == (1.0, 0.5, 0.5)
    assert params.students == ["sd-small", "sd-tiny"]


@pytest.mark.parametrize(
    "section", ["teacher", "filter", "encode", "prune", "distill", "finetune", "benchmark", "runtime"]
)
def test_unknown_keys_are_refused_in_every_section(content, section):
    content[section]["zzz"] = 1
    message = refused(content)
    assert f"{section}.zzz" in message and f"section '{section}'" in message


def test_a_misspelt_key_is_named_with_its_neighbour(content):
    content["distill"]["feature_wieght"] = 1.0
    assert refused(content) == (
        "params.yaml: distill.feature_wieght: no key of section 'distill' is called 'feature_wieght'; "
        "did you mean 'feature_weight'?"
    )


def test_a_misspelt_section_is_named_with_its_neighbour(content):
    content["distil"] = content.pop("distill")
    assert refused(content).splitlines() == [
        "params.yaml: distill: missing",
        "params.yaml: distil: no key of the file is called 'distil'; did you mean 'distill'?",
    ]


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("distill", "steps", "many", "distill.steps: input should be a valid integer"),
        ("distill", "steps", 0, "distill.steps: input should be greater than or equal to 1, got 0"),
        ("distill", "feature_weight", -0.5, "distill.feature_weight: input should be greater than or equal to 0"),
        ("distill", "feature_weight", float("nan"), "distill.feature_weight: input should be"),
        ("distill", "learning_rate", 0, "distill.learning_rate: input should be greater than 0, got 0"),
        ("distill", "lr_scheduler", "sine", "'constant', 'cosine' or 'linear', got 'sine'"),
        ("encode", "precision", "fp8", "'fp32', 'tf32', 'bf16' or 'fp16', got 'fp8'"),
        ("finetune", "ema_decay", 1, "finetune.ema_decay: input should be less than 1, got 1"),
        ("filter", "source", "laion", "'hub' or 'generated', got 'laion'"),
        ("filter", "path", None, "filter.path: input should be a valid string, got None"),
        (
            "benchmark",
            "guidance_scale",
            0.5,
            "benchmark.guidance_scale: input should be greater than or equal to 1, got 0.5",
        ),
        (
            "benchmark",
            "protocol",
            "bk-sdm",
            "benchmark: protocol bk-sdm needs prompts: 30000, prompts_from: file, size: 512, noise: stream",
        ),
        ("benchmark", "prompts_from", "files", "benchmark.prompts_from: input should be 'heldout' or 'file', got 'f"),
        ("benchmark", "size", "big", "benchmark.size: input should be 'own' or 'every', got 'big'"),
        ("benchmark", "prompts", 0, "benchmark.prompts: input should be greater than or equal to 1, got 0"),
        ("benchmark", "scheduler", "dpm", "'DDIMScheduler', 'DDPMScheduler', "),
        ("benchmark", "backbones", {"clip": 3}, "benchmark.backbones.clip: input should be a valid string, got 3"),
        ("runtime", "processes", 0, "runtime.processes: input should be greater than or equal to 1, got 0"),
        ("runtime", "compile", "yes please", "runtime.compile"),
        ("distill", "output_weight", [[0, 1], [0.5, -1]], "distill.output_weight.1.1: input should be greater than or"),
        ("distill", "output_weight", [[0.5, 1], [0, 1]], "distill.output_weight: the shares of the training must incr"),
        ("distill", "task_weight", [], "distill.task_weight: list should have at least 1 item"),
    ],
)
def test_wrong_type_or_range_says_what_is_allowed(content, section, key, value, said):
    content[section][key] = value
    assert said in refused(content)


def test_every_mistake_is_said_at_once(content):
    content["seed"], content["encode"]["heldout"] = -1, 0
    assert [line.split()[1] for line in refused(content).splitlines()] == ["seed:", "encode.heldout:"]


def test_students_are_names_and_single(content):
    for hostile in ("$(touch x)/../sd-tiny", "../../docs", "a b", "a;b", "-rf", "a'b", "", "A", "${seed}"):
        content["students"] = [hostile]
        assert "students.0: string should match pattern" in refused(content), hostile
    content["students"] = ["sd-tiny", "sd-tiny"]
    assert "names a student twice" in refused(content)
    content["students"] = []
    assert "students: list should have at least 1 item" in refused(content)


def test_all_weights_zero_leaves_nothing_to_learn(content):
    content["distill"] |= {"task_weight": 0, "output_weight": 0, "feature_weight": 0}
    assert "nothing to learn" in refused(content)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no such parameter file"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1")
    with pytest.raises(UserError, match="valid dictionary"):
        read_params(tmp_path / "params.yaml")


def test_a_key_that_the_file_lacks_takes_the_shipped_default_and_says_so(content, tmp_path, capsys):
    del content["distill"]["noise_offset"], content["watch"], content["filter"]["aesthetic"]["clip"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert read_params(tmp_path / "params.yaml") == read_params(ROOT / "params.yaml")
    said = capsys.readouterr().err
    assert "distill.noise_offset: 0.0" in said and "filter.aesthetic.clip: None" in said and "watch: {" in said
    assert said.count("\n") == 1


def test_the_package_ships_the_committed_parameters():
    shipped = ROOT / "src" / "prunella" / "defaults.yaml"
    assert shipped.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_no_key_has_a_default_in_code():
    found, sections = [], [Params]
    while sections:
        section = sections.pop()
        found += [
            f"{section.__name__}.{name}" for name, field in section.model_fields.items() if not field.is_required()
        ]
        kinds = [field.annotation for field in section.model_fields.values()]
        sections += [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    assert found == []


def test_a_key_that_moved_is_found(content):
    content["distill"]["picture_every"] = 7
    assert "distill.picture_every: is watch.image_every now" in refused(content)


def leaves(content: dict, *before: str):
    """Every number of the file, by its path."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, *before, key)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*before, key)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**30, -(10**30)])
def test_numbers_out_of_reason_are_refused_by_name(content, value):
    """Every number of the file, and those that are null in it."""
    content["filter"] |= {"min_megapixels": 0.1, "max_megapixels": 1.0, "max_punsafe": 0.5, "max_pwatermark": 0.5}
    content["filter"] |= {"min_similarity": 0.1, "near_duplicates": 3}
    content["filter"]["aesthetic"]["min"] = 5.0
    content["distill"]["snr_gamma"] = content["finetune"]["snr_gamma"] = 5.0
    validate_config(Params, content, "params.yaml")
    for *path, last in leaves(content):
        section = content
        for key in path:
            section = section[key]
        sound, section[last] = section[last], value
        name = ".".join([*path, last])
        # What is measured may be any finite number; what is counted may not.
        if isinstance(sound, int) or abs(value) != 10**30:
            assert any(line.startswith(f"params.yaml: {name}") for line in said(content)), name
        section[last] = sound


def said(content: dict) -> list[str]:
    try:
        validate_config(Params, content, "params.yaml")
    except UserError as error:
        return str(error).splitlines()
    return []


def test_points_of_a_weight_are_numbers(content):
    for value in (float("nan"), float("inf")):
        content["distill"]["output_weight"] = [[0.0, 1.0], [1.0, value]]
        assert "distill.output_weight.1.1" in refused(content)


SET = {
    "prompts": "p.txt", "samples": 9, "images_per_prompt": 1, "model": "models/teacher.json", "id": None,
    "revision": "main",
    "negative_prompt": "", "guidance_scale": 7.5, "scheduler": None, "num_inference_steps": 25, "sizes": [[512, 512]],
    "batch_size": 8, "precision": "fp32", "storage": "fp16", "seed": 0, "store": None,
}  # fmt: skip


def test_sets_to_generate_have_names_and_whole_entries(content):
    content["generate"]["portraits"] = SET
    assert validate_config(Params, content, "params.yaml").generate["portraits"].sizes == [(512, 512)]
    content["generate"]["portraits"] = SET | {"guidence": 3.0}
    assert refused(content) == (
        "params.yaml: generate.portraits.guidence: no key of section 'generate.portraits' is called 'guidence'; "
        "did you mean 'guidance_scale'?"
    )
    for name in ("Por traits", "por.traits"):  # DVC would take the dot to part keys
        content["generate"] = {name: SET}
        assert f"generate.{name}" in refused(content)
    content["generate"] = {"portraits": {key: value for key, value in SET.items() if key != "seed"}}
    assert refused(content) == "params.yaml: generate.portraits.seed: missing"
    content["generate"] = {"portraits": SET | {"sizes": []}}
    assert "generate.portraits.sizes" in refused(content)


def test_only_students_are_chosen_to_be_tuned(content):
    content["finetune"]["students"] = ["sd-tiny", "sd-tinny"]
    assert refused(content).endswith("finetune.students: 'sd-tinny' is not among students: sd-small, sd-tiny")


OWN = {"filter": {"source": "folder", "path": "data/portraits"}, "encode": {"heldout": 4}}


def with_own(content: dict, tmp_path, latents: str = "data/own/portraits/latents", **own) -> dict:
    """The file's content with a set of fine-tuning's own, as it is written down."""
    content["finetune"] |= {"data": {"portraits": OWN | own}, "latents": latents}
    content["filter"]["samples"], content["encode"]["resolution"] = 17, 128
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    return content


def test_sets_of_ones_own_lack_what_is_as_shipped_and_as_encoded(content, tmp_path, capsys):
    with_own(content, tmp_path)
    params = read_params(tmp_path / "params.yaml")
    own, shipped = params.finetune.data["portraits"], read_params(ROOT / "params.yaml")
    assert own.filter == shipped.filter.model_copy(update=OWN["filter"])
    assert own.encode == params.encode.model_copy(update={"heldout": 4}) and own.encode.resolution == 128
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("own", "latents", "said"),
    [
        ({}, "data/latents", "finetune.latents: data/latents, so finetune.data is for nothing; it makes data/own/por"),
        ({}, "data/own/portrait/latents", "data/own/portrait/latents is made by no entry of finetune.data (data/own/"),
        ({}, "$(touch PWNED)", "$(touch PWNED) is made by no entry of finetune.data"),  # it would be in a command
        ({"encode": 3}, "data/latents", "finetune.data.portraits.encode: input should be a valid dictionary"),
        ({"encode": {"heldut": 3}}, "data/latents", "'heldut'; did you mean 'heldout'?"),
        ({"filter": {"source": "scenes", "caption": "a cat"}}, "data/latents", "goes with source folder, not with sce"),
        ({"filter": {"source": "folder", "path": ".", "caption": " "}}, "data/latents", "filter.caption: "),
        (
            {"filter": {"source": "folder", "path": ".", "caption": "a dog"}},
            "data/own/portraits/latents",
            "finetune.caption_keywords: none of ['heart'] is in the caption of finetune.data.portraits ('a dog'); [] "
            "takes all",
        ),
    ],
)
def test_mistakes_in_sets_of_ones_own(content, tmp_path, own, latents, said):
    with_own(content, tmp_path, latents, **own)
    with pytest.raises(UserError) as caught:
        read_params(tmp_path / "params.yaml")
    assert said in str(caught.value)


def test_of_a_base_there_are_no_main_data_to_rehearse(content, tmp_path):
    content["finetune"] |= {"replay_weight": 0.5, "base": {"theirs": {"model": {}, "data": "portraits"}}}
    with_own(content, tmp_path)
    with pytest.raises(
        UserError, match=r"finetune\.replay_weight: 0\.5, but the main data are not .* finetune.base.theirs"
    ):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("teacher", "finetune.base.teacher: the teacher's pictures have that name; give it another"),
        ("sd-tiny", "finetune.base.sd-tiny: a student of this graph has that name; give it another"),
        ("sd-v1.5", "finetune.base.sd-v1.5"),  # DVC would look for a key 5 of an entry sd-v1
    ],
)
def test_names_that_a_base_cannot_have(content, tmp_path, name, said):
    content["finetune"] |= {"base": {name: {"model": {}, "data": "portraits"}}}
    with_own(content, tmp_path)
    with pytest.raises(UserError) as caught:
        read_params(tmp_path / "params.yaml")
    assert said in str(caught.value)


def phased(content: dict, *phases: dict, steps: int) -> dict:
    content["distill"] |= {"phases": list(phases), "steps": steps}
    return content


def test_a_phase_takes_from_its_section_what_it_does_not_name(content, tmp_path):
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(phased(content, {"steps": 4, "plan": 0.5, "output_weight": 2}, {"steps": 3}, steps=7))
    )
    first, second = read_params(tmp_path / "params.yaml").distill.phases
    assert (first.plan, first.output_weight, first.feature_weight, first.learning_rate) == (0.5, 2.0, 0.5, 2e-3)
    assert (second.plan, second.output_weight, second.steps) == (None, 0.5, 3)


WEIGHTS = {
    "task_weight": 1.0,
    "output_weight": 0.5,
    "feature_weight": 0.5,
    "learning_rate": 1e-3,
    "plan": None,
    "teacher": None,
}


@pytest.mark.parametrize(
    ("phases", "steps", "said"),
    [
        ([{"steps": 0}], 1, "distill.phases.0.steps: input should be greater than or equal to 1, got 0"),
        ([{"steps": 2}, {"steps": 3}], 600, "distill: steps: 600, but its phases have 5 together; write steps: 5"),
        (
            [{"steps": 2, "plan": 1.5}, {"steps": 3}],
            5,
            "distill.phases.0.plan: input should be less than or equal",
        ),
        ([{"steps": 1, "plan": 0.5}, {"steps": 1, "plan": 0.2}, {"steps": 1}], 3, "must not fall from phase to phase"),
        ([{"steps": 1}, {"steps": 1, "plan": 0.5}], 2, "the last one makes 0.5 of the student's cuts; plan: null"),
        ([{"steps": 2, "stesp": 3}], 2, "no key of section 'distill.phases.0' is called 'stesp'; did you mean 'steps'"),
        (
            [{"steps": 2, "teacher": "seconde"}],
            2,
            "distill.phases.0.teacher: no entry of teachers is called 'seconde'; did you mean 'second'?",
        ),
        ([{"steps": 2, "task_weight": 0, "output_weight": 0, "feature_weight": 0}], 2, "there is nothing to learn"),
    ],
)
def test_phases_that_make_no_training_are_refused(content, phases, steps, said):
    content["teachers"] = {"second": content["teacher"]}
    message = refused(phased(content, *(WEIGHTS | phase for phase in phases), steps=steps))
    assert said in message and "\n" not in message.strip()


def test_patience_does_not_go_with_phases(content):
    content["distill"]["patience"] = 3
    assert "distill: patience: a training in phases has the steps that they name" in refused(
        phased(content, WEIGHTS | {"steps": 2}, steps=2)
    )
