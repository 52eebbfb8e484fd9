import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from prunella.errors import UserError
from prunella.export.compat_check import check_programs, detect_unet_layout, load_rules
from prunella.export.ldm_keys import iter_ldm_tensors, ldm_unet_name, unet_key_map
from prunella.export.single_file import write_single_file
from prunella.models.pipeline import load_pipeline
from prunella.models.reference_configs import load_reference_configs
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import SHIPPED_PLANS, STUDENTS
from prunella.pruning.prune import prune_to_folder

SHIPPED = sorted(path.stem for path in SHIPPED_PLANS.glob("*.yaml"))
TEACHERS = {"sd": "sd15", "sdxl": "sdxl"}


def loaded(path, folder, dtype=torch.float16):
    """What stock diffusers makes of the file, by the configs of the folder."""
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").is_dir() else StableDiffusionPipeline
    return kind.from_single_file(str(path), config=str(folder), dtype=dtype, local_files_only=True)


def assert_same(theirs, ours, dtype=torch.float16):
    """All tensors of all parts are as they were, rounded to `dtype`."""
    parts = [
        name for name in ("unet", "vae", "text_encoder", "text_encoder_2") if getattr(ours, name, None) is not None
    ]
    for part in parts:
        state, expected = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value.to(dtype)) for name, value in expected.items())


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_a_student_comes_back_from_one_file_unchanged(pruned_tiny, tmp_path, dtype):
    precision = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    made = write_single_file(pruned_tiny, tmp_path / "out" / "student.safetensors", dtype)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["student.safetensors"]
    assert_same(
        loaded(tmp_path / "out" / "student.safetensors", pruned_tiny, precision), load_pipeline(pruned_tiny), precision
    )
    with safe_open(tmp_path / "out" / "student.safetensors", "pt") as file:
        told = file.metadata()
        assert made["tensors"] == len(file.keys())
    assert told["modelspec.architecture"] == "stable-diffusion-v1" and told["modelspec.resolution"] == "32x32"
    assert told["modelspec.prediction_type"] == "v" and "name: sd-tiny" in told["prunella.plan"]


@pytest.mark.slow
def test_students_of_sdxl_and_of_sd_2_come_back_too(xl_teacher, teacher, params, tmp_path):
    for name in ("segmind-vega", "koala-700m", "ssd-1b"):
        student = tmp_path / name
        prune_to_folder(params.prune, xl_teacher, SHIPPED_PLANS / f"{name}.yaml", student)
        write_single_file(student, tmp_path / "xl.safetensors", "fp16")
        assert_same(loaded(tmp_path / "xl.safetensors", student), load_pipeline(student))
    two = tmp_path / "two"
    pipeline = load_pipeline(teacher)
    pipeline.unet = UNet2DConditionModel.from_config(dict(pipeline.unet.config) | {"use_linear_projection": True})
    pipeline.save_pretrained(two)
    write_single_file(two, tmp_path / "two.safetensors", "fp16")
    assert_same(loaded(tmp_path / "two.safetensors", two), load_pipeline(two))


def test_numbers_too_large_for_the_dtype_are_named(pruned_tiny, tmp_path):
    folder = shutil.copytree(pruned_tiny, tmp_path / "student")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    with torch.no_grad():
        next(iter(encoder.parameters()))[0, 0] = 70_000.0
    encoder.save_pretrained(folder / "text_encoder")
    with pytest.raises(UserError, match=r"fp16 cannot hold cond_stage_model.transformer.*token_embedding.weight"):
        write_single_file(folder, tmp_path / "out.safetensors", "fp16")
    assert not list(tmp_path.glob("out*"))
    write_single_file(folder, tmp_path / "out.safetensors", "bf16")


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Original names and shapes of a shipped student's UNet at full size."""
    config = student_config(STUDENTS[name], load_reference_configs()[TEACHERS[STUDENTS[name].family]])
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    places = unet_key_map(unet.config)
    return {
        f"model.diffusion_model.{ldm_unet_name(key, places)}": tuple(v.shape) for key, v in unet.state_dict().items()
    }


COMFYUI = {
    "bk-sdm-base": "SD15",
    "bk-sdm-small": "SD15",
    "bk-sdm-tiny": "SD15",
    "sd-small": "SD15",
    "sd-tiny": "SD15",
    "ssd-1b": "SSD1B",
    "segmind-vega": "Segmind_Vega",
    "koala-1b": "KOALA_1B",
    "koala-700m": "KOALA_700M",
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_student_at_full_size_is_recognised_by_comfyui(name):
    named = shapes(name)
    assert len(set(named)) == len(named)
    comfyui, a1111, diffusers = check_programs(named, False, "models/x")
    assert (comfyui.is_supported, comfyui.detected_as) == (True, COMFYUI[name])
    assert not a1111.is_supported and "original's UNet" in a1111.note
    assert diffusers.is_supported and 'config="models/x"' in diffusers.note


def test_what_is_found_of_a_unet():
    assert detect_unet_layout(shapes("sd-tiny")) | {"width": 0} == {
        "width": 0,
        "context": 768,
        "linear": False,
        "added": None,
        "depth": [1, 1, 1],
        "resnets": [1, 1, 1],
        "mid": -2,
    }
    found = detect_unet_layout(shapes("ssd-1b"))
    assert (found["depth"], found["resnets"], found["mid"], found["added"]) == ([0, 0, 2, 2, 4, 4], [2, 2, 2], -1, 2816)


def test_programs_that_do_not_take_a_file_are_named_with_what_to_do():
    teacher = load_reference_configs()["sdxl"]
    plan = STUDENTS["segmind-vega"].model_dump()
    uneven = type(STUDENTS["segmind-vega"]).model_validate(
        plan | {"name": "own", "down": [[0], [0, 1], [0, 1]], "up": [[0, 1, 2], [0, 1, 2], [0, 2]]}
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(student_config(uneven, teacher))
    places = unet_key_map(unet.config)
    named = {
        f"model.diffusion_model.{ldm_unet_name(key, places)}": tuple(v.shape) for key, v in unet.state_dict().items()
    }
    comfyui, _, diffusers = check_programs(named, False, "models/own")
    assert not comfyui.is_supported and "depths [0, 1, 1, 2, 2]" in comfyui.note
    assert not diffusers.is_supported and "1, 2, 2" in diffusers.note and "models/own" in diffusers.note


def test_velocities_are_told_where_comfyui_would_not_know():
    named = shapes("sd-tiny")
    assert "v_prediction" in check_programs(named, True, "x")[0].note
    xl = shapes("ssd-1b")
    assert "v_prediction" in check_programs(xl, True, "x")[0].note
    assert "v_prediction" not in check_programs(xl | {"v_pred": (0,)}, True, "x")[0].note


def test_the_originals_are_taken_by_all():
    for original_name, known_as in (("sd15", "SD15"), ("sd21", "SD20"), ("sdxl", "SDXL")):
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(load_reference_configs()[original_name])
        places = unet_key_map(unet.config)
        named = {
            f"model.diffusion_model.{ldm_unet_name(k, places)}": tuple(v.shape) for k, v in unet.state_dict().items()
        }
        text = load_rules()["a1111"]["configs"]
        marks = {"sd15": {}, "sd21": {text["v2-inference"]["text"]: (1,)}, "sdxl": {text["sd_xl_base"]["text"]: (1,)}}
        found = check_programs(named | marks[original_name], False, "x")
        assert [each.is_supported for each in found] == [True] * 3 and found[0].detected_as == known_as


def random_unet(config: dict) -> UNet2DConditionModel:
    """Of full size, in fp16, with numbers that repeat after a prime count."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    unet = unet.half().to_empty(device="cpu")
    some = torch.randn(1_000_003).half()
    for i, weight in enumerate(unet.parameters()):
        places = (torch.arange(weight.numel()) + 7919 * i) % len(some)
        weight.data = some[places].reshape(weight.shape)
    return unet


def small_parts(xl: bool) -> SimpleNamespace:
    """What a pipeline has beside its UNet, in small."""
    text = CLIPTextConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    vae = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    return SimpleNamespace(
        vae=AutoencoderKL(block_out_channels=(32,), **vae),
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text) if xl else None,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_student_at_full_size_comes_back_from_one_file(name, tmp_path):
    """Needs 8 GB of memory and 6 GB of disk."""
    plan = STUDENTS[name]
    unet = random_unet(student_config(plan, load_reference_configs()[TEACHERS[plan.family]]))
    unet.save_config(tmp_path / "unet")

    parts = small_parts(plan.family == "sdxl")
    parts.unet = unet
    save_file({key: value.contiguous() for key, value in iter_ldm_tensors(parts)}, tmp_path / "student.safetensors")
    back = UNet2DConditionModel.from_single_file(
        str(tmp_path / "student.safetensors"), config=str(tmp_path), subfolder="unet", torch_dtype=torch.float16
    )
    state = back.state_dict()
    assert state.keys() == unet.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in unet.state_dict().items())
