"""Crafted teachers: each is refused in one line that names what is wrong, and none in a stack trace."""

import inspect
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import asked
from safetensors.torch import load_file, save_file
from singlefile import single

from prunella.errors import UserError
from prunella.models.configs import SCHEDULERS
from prunella.models.pipeline import check_teacher_weights, load_pipeline
from prunella.models.teacher import pin_teacher
from prunella.models.weights import check_finite_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {"unet": f"unet/{WEIGHTS}", "vae": f"vae/{WEIGHTS}", "text_encoder": "text_encoder/model.safetensors"}
Spoil = Callable[[Path], None]


def refusal(folder: Path, **changes) -> str:
    """What pinning and checking a folder says against it."""
    with pytest.raises(UserError) as caught:
        check_teacher_weights(pin_teacher(asked(folder, **changes)))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


def tensors(part: str, change: Callable[[dict], object]) -> Spoil:
    """Change a part's tensors."""

    def spoil(folder: Path) -> None:
        content = load_file(folder / FILES[part])
        change(content)
        save_file(content, folder / FILES[part])

    return spoil


def config(path: str, **changes) -> Spoil:
    """Change keys of a JSON file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(content | changes))

    return spoil


def without(path: str, key: str) -> Spoil:
    """Take a key out of a JSON file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        del content[key]
        (folder / path).write_text(json.dumps(content))

    return spoil


def text(path: str, content: str) -> Spoil:
    """Write a file."""

    def spoil(folder: Path) -> None:
        (folder / path).write_text(content)

    return spoil


def head(content: bytes, length: int | None = None, data: bytes = b"", size: int | None = None) -> Spoil:
    """Give the UNet's weights another header; `length` is the length that the file claims, `size` makes it sparse."""

    def spoil(folder: Path) -> None:
        with (folder / FILES["unet"]).open("wb") as file:
            file.write(struct.pack("<Q", len(content) if length is None else length) + content + data)
            file.truncate(size or file.tell())

    return spoil


def entry(**changes) -> bytes:
    """A header of one tensor of four fp32 numbers, with changes."""
    sound = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return json.dumps({"a": {key: value for key, value in (sound | changes).items() if value is not ...}}).encode()


def sharded(places: object) -> Spoil:
    """An index beside the UNet's weights in place of them."""

    def spoil(folder: Path) -> None:
        (folder / FILES["unet"]).rename(folder / "unet" / "a.safetensors")
        (folder / f"{FILES['unet']}.index.json").write_text(json.dumps({"weight_map": places}))

    return spoil


def decoy(name: str) -> Spoil:
    """A pickle under the name that the loader looks for, and a sound safetensors file that it does not."""

    def spoil(folder: Path) -> None:
        torch.save(load_file(folder / FILES["unet"]), folder / "unet" / "diffusion_pytorch_model.bin")
        (folder / FILES["unet"]).rename(folder / "unet" / name)

    return spoil


def nan(name: str, value: float = float("nan")) -> Callable[[dict], object]:
    return lambda content: content[name].view(-1)[-1].fill_(value)


UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
EDM = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}

CRAFTED: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    # Tensors
    "text encoder lacks a weight": (
        tensors("text_encoder", lambda content: content.pop(next(k for k in content if "k_proj.weight" in k))),
        ("text_encoder", "k_proj.weight", "1 missing"),
    ),
    "text encoder has a layer less than its config": (
        config(TEXT, num_hidden_layers=3),
        ("text_encoder", "layers.2", "missing"),
    ),
    "text encoder of another width": (
        config(TEXT, intermediate_size=44),
        ("text_encoder", "fc1", "(40", "(44"),
    ),
    "UNet lacks a weight": (
        tensors("unet", lambda content: content.pop("conv_in.bias")),
        ("unet", "conv_in.bias", "1 missing"),
    ),
    "UNet of another shape": (
        tensors("unet", lambda content: content.update({"conv_in.bias": torch.zeros(31)})),
        ("unet", "conv_in.bias", "31"),
    ),
    "VAE lacks a weight": (
        tensors("vae", lambda content: content.pop("decoder.conv_out.bias")),
        ("vae", "decoder.conv_out.bias"),
    ),
    "NaN in the text encoder": (
        tensors("text_encoder", lambda content: nan(next(k for k in content if "k_proj.weight" in k))(content)),
        (FILES["text_encoder"], "k_proj.weight", "1 of"),
    ),
    "NaN in the UNet": (tensors("unet", nan("conv_in.bias")), (FILES["unet"], "conv_in.bias", "1 of 32")),
    "infinity in the VAE": (
        tensors("vae", nan("decoder.conv_out.bias", float("-inf"))),
        (FILES["vae"], "decoder.conv_out.bias", "1 of 3"),
    ),
    # Headers
    "header is a list": (head(b"[]"), (FILES["unet"], "list")),
    "header is null": (head(b"null"), (FILES["unet"], "None")),
    "header is of strings": (head(b'{"a": "x"}'), (FILES["unet"], "a:", "'x'")),
    "no offsets": (head(entry(data_offsets=...)), (FILES["unet"], "a.data_offsets")),
    "one offset": (head(entry(data_offsets=[0])), (FILES["unet"], "a.data_offsets")),
    "offsets of words": (head(entry(data_offsets=["0", "16"])), (FILES["unet"], "a.data_offsets.0", "'0'")),
    "a negative offset": (head(entry(data_offsets=[-16, 0])), (FILES["unet"], "a.data_offsets.0", "-16")),
    "offsets that do not fit the shape": (head(entry(shape=[5]), data=bytes(16)), (FILES["unet"], "tensor a", "[5]")),
    "offsets past the end": (head(entry(), data=bytes(15)), (FILES["unet"], "cut off")),
    "bytes after the end": (head(entry(), data=bytes(17)), (FILES["unet"], "1 bytes after")),
    "an unknown dtype": (head(entry(dtype="F31"), data=bytes(16)), (FILES["unet"], "tensor a", "'F31'")),
    "a shape of words": (head(entry(shape=["4"])), (FILES["unet"], "a.shape.0")),
    "no shape": (head(entry(shape=...)), (FILES["unet"], "a.shape")),
    "deep nesting": (head(b"[" * 100_000), (FILES["unet"], "nested too deeply")),
    "a header of 30 GB in a sparse file": (
        head(b"{}", length=30 * 10**9, size=31 * 10**9),
        (FILES["unet"], "30000000000", "100000000"),
    ),
    "weights renamed from a pickle": (head(b"\x80\x02}q\x00."), (FILES["unet"], "not valid JSON")),
    # Which files are taken
    "index leads out of the folder": (
        sharded({"conv_in.bias": "../../../etc/passwd"}),
        ("index.json", "../../../etc/passwd"),
    ),
    "index names a pickle": (sharded({"conv_in.bias": "a.bin"}), ("index.json", "a.bin")),
    "index names numbers": (sharded({"conv_in.bias": 5}), ("index.json", "weight_map.conv_in.bias", "5")),
    "index is a list": (sharded(["a"]), ("index.json", "weight_map", "list")),
    "a decoy beside the pickle": (decoy("decoy.safetensors"), ("diffusion_pytorch_model.bin", "pickle")),
    "a variant beside the pickle": (
        decoy("diffusion_pytorch_model.fp16.safetensors"),
        ("diffusion_pytorch_model.bin", "pickle"),
    ),
    "text encoder names another file": (
        config(TEXT, transformers_weights="adapter_model.bin"),
        (TEXT, "transformers_weights"),
    ),
    # Types in configs
    "UNet's config is a list": (text(UNET, "[]"), (UNET, "list")),
    "UNet's config is a string": (text(UNET, '"x"'), (UNET, "'x'")),
    "UNet's config is nested deeply": (text(UNET, "[" * 100_000), (UNET, "nested too deeply")),
    "block types are a number": (config(UNET, down_block_types=5), (UNET, "down_block_types", "5")),
    "block types are numbers": (config(UNET, down_block_types=[5]), (UNET, "down_block_types.0", "5")),
    "widths are null": (config(UNET, block_out_channels=None), (UNET, "block_out_channels", "None")),
    "widths are words": (config(UNET, block_out_channels=["x"]), (UNET, "block_out_channels", "'x'")),
    "layers are null": (config(UNET, layers_per_block=None), (UNET, "layers_per_block")),
    "groups that do not divide": (config(UNET, norm_num_groups=7), ("unet", "num_channels")),
    "fewer widths than blocks": (config(UNET, block_out_channels=[32, 64]), ("unet", "block_out_channels")),
    "VAE's config is null": (text(VAE, "null"), (VAE, "None")),
    "VAE of another class": (config(VAE, _class_name="AutoencoderTiny"), (VAE, "_class_name", "AutoencoderTiny")),
    "VAE of no scale": (config(VAE, scaling_factor=0), (VAE, "scaling_factor")),
    "text encoder of a billion layers": (config(TEXT, num_hidden_layers=10**9), (TEXT, "num_hidden_layers")),
    "text encoder of odd heads": (config(TEXT, num_attention_heads=5), ("text_encoder", "24", "5")),
    "scheduler is a list": (text(SCHEDULER, "[]"), (SCHEDULER, "list")),
    "a beta of null": (config(SCHEDULER, beta_start=None), (SCHEDULER, "beta_start", "None")),
    "no steps": (config(SCHEDULER, num_train_timesteps=0), (SCHEDULER, "num_train_timesteps", "0")),
    "an unknown prediction": (
        config(SCHEDULER, prediction_type="evil"),
        (SCHEDULER, "prediction_type", "epsilon", "v_prediction", "'evil'"),
    ),
    "no beta schedule": (without(SCHEDULER, "beta_schedule"), (SCHEDULER, "beta_schedule")),
    "an empty model index": (text(INDEX, "{}"), (INDEX, "_class_name", "StableDiffusionPipeline")),
    "a pipeline of an unknown class": (config(INDEX, _class_name="EvilPipeline"), (INDEX, "EvilPipeline")),
    "a pipeline of the code beside it": (config(INDEX, _class_name=["evil", "Evil"]), (INDEX, "evil")),
    "a part of three": (config(INDEX, unet=["diffusers", "UNet2DConditionModel", 5]), (INDEX, "unet")),
    "a part of numbers": (config(INDEX, vae=[1, 2]), (INDEX, "vae.0")),
    "no VAE": (config(INDEX, vae=[None, None]), (INDEX, "vae")),
    "a UNet of another library": (config(INDEX, unet=["this", "UNet2DConditionModel"]), (INDEX, "unet", "'this'")),
    "a UNet that is none": (config(INDEX, unet=["diffusers", "DDPMScheduler"]), ("unet", "DDPMScheduler")),
    "a text encoder that is none": (config(INDEX, text_encoder=["transformers", "no_such"]), ("no_such",)),
    "a part that is a number": (config(INDEX, safety_checker=0.5), (INDEX, "safety_checker", "0.5")),
    "a token that is a number": (
        config("tokenizer/tokenizer_config.json", unk_token=5),
        ("cannot be loaded", "unk_token"),
    ),
    "a solver of no known kind": (config(SCHEDULER, solver_type="x"), ("cannot be loaded", "x is not implemented")),
    "a version that is none": (config(UNET, _diffusers_version="x"), (UNET, "_diffusers_version", "'x'")),
    # Not supported yet
    "EDM": (config(SCHEDULER, **EDM), (SCHEDULER, "EDMEulerScheduler")),
    "EDM by its solver": (
        config(SCHEDULER, _class_name="EDMDPMSolverMultistepScheduler"),
        (SCHEDULER, "EDMDPMSolverMultistepScheduler"),
    ),
    "flow matching": (
        config(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        (SCHEDULER, "FlowMatchEulerDiscreteScheduler"),
    ),
    "prediction of the sample": (
        config(SCHEDULER, prediction_type="sample"),
        (SCHEDULER, "prediction_type", "'sample'"),
    ),
    "latents of a mean": (config(VAE, latents_mean=[0.0] * 4), (VAE, "latents_mean")),
    "latents of a deviation": (config(VAE, latents_std=[1.0] * 4), (VAE, "latents_std")),
    "shifted latents": (config(VAE, shift_factor=0.1), (VAE, "shift_factor")),
    "inpainting": (config(UNET, in_channels=9), (UNET, "in_channels", "9", "inpainting")),
    "distilled guidance": (config(UNET, time_cond_proj_dim=256), (UNET, "time_cond_proj_dim", "guidance")),
    "class labels": (config(UNET, class_embed_type="timestep"), (UNET, "class_embed_type")),
    "quantised": (config(TEXT, quantization_config={"quant_method": "awq"}), (TEXT, "quantization_config")),
    "text of another width": (config(UNET, cross_attention_dim=48), (UNET, "cross_attention_dim", "48", "24")),
    "latents of no known size": (without(UNET, "sample_size"), (UNET, "sample_size")),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_teacher_is_refused_in_one_line(name, own_teacher):
    spoil, said = CRAFTED[name]
    spoil(own_teacher)
    message = refusal(own_teacher)
    assert [part for part in said if part not in message] == [], message
    assert torch.get_default_dtype() == torch.float32  # as it was, wherever loading stopped


def test_a_sound_teacher_passes(teacher, xl_teacher):
    for folder, family in ((teacher, "sd"), (xl_teacher, "sdxl")):
        pinned = pin_teacher(asked(folder))
        check_teacher_weights(pinned)
        assert pinned["family"] == family


def test_a_missing_tensor_of_the_second_text_encoder(xl_teacher, tmp_path):
    own = Path(shutil.copytree(xl_teacher, tmp_path / "xl"))
    path = own / "text_encoder_2" / "model.safetensors"
    content = load_file(path)
    del content["text_projection.weight"]
    save_file(content, path)
    assert "text_encoder_2: its weights lack text_projection.weight (1 missing" in refusal(own)


def test_attention_by_its_old_names_is_known(own_teacher):
    """As the VAEs of published Stable Diffusion 1.5 have it."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(content: dict) -> None:
        for name in [name for name in content if "mid_block.attentions" in name]:
            new = next((name.replace(ours, theirs) for ours, theirs in old.items() if f".{ours}." in name), name)
            content[new] = content.pop(name)

    tensors("vae", renamed)(own_teacher)
    assert any(".query." in name for name in load_file(own_teacher / FILES["vae"]))
    check_teacher_weights(pin_teacher(asked(own_teacher)))


def test_shards_are_checked_one_by_one(own_teacher):
    content = load_file(own_teacher / FILES["unet"])
    names, folder = sorted(content), own_teacher / "unet"
    places = {name: f"{'ab'[i % 2]}.safetensors" for i, name in enumerate(names)}
    (own_teacher / FILES["unet"]).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

    def write() -> None:
        for shard in ("a.safetensors", "b.safetensors"):
            save_file({name: content[name] for name in names if places[name] == shard}, folder / shard)

    write()
    check_teacher_weights(pin_teacher(asked(own_teacher)))
    content[names[1]].view(-1)[0] = float("inf")
    write()
    assert f"unet/b.safetensors: tensor {names[1]} holds" in refusal(own_teacher)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_an_allowed_pickle_is_checked_as_well(part, own_teacher):
    path = own_teacher / FILES[part]
    bins = path.with_name({"text_encoder": "pytorch_model.bin"}.get(part, "diffusion_pytorch_model.bin"))
    content = load_file(path)
    path.unlink()
    torch.save(content, bins)
    check_teacher_weights(pin_teacher(asked(own_teacher, allow_pickle=True)))
    name = sorted(content)[0]
    torch.save(content | {name: torch.full_like(content[name], float("nan"))}, bins)
    assert f"{bins.name}: tensor {name} holds" in refusal(own_teacher, allow_pickle=True)
    torch.save({key: value for key, value in content.items() if key != name}, bins)
    assert part in (message := refusal(own_teacher, allow_pickle=True)) and "1 missing" in message
    bins.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert f"{part}: cannot be loaded: " in refusal(own_teacher, allow_pickle=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_found_in_every_precision(dtype, value, tmp_path):
    path, largest = tmp_path / "weights.safetensors", torch.finfo(dtype).max
    content = {
        "a": torch.tensor([largest, -largest, 0.0, 5.0], dtype=torch.float64).to(dtype),
        "i": torch.full((3,), -1),
        "e": torch.ones(0),
    }
    save_file(content, path)
    check_finite_safetensors(path)
    content["a"][2] = value
    save_file(content, path)
    with pytest.raises(UserError, match=r"weights.safetensors: tensor a holds NaN or infinite numbers \(1 of 4\)"):
        check_finite_safetensors(path)
    check_finite_safetensors(path, lambda name: name != "a")


def test_every_ddpm_scheduler_of_diffusers_is_named_right():
    import diffusers

    for name in SCHEDULERS:
        assert "beta_schedule" in inspect.signature(getattr(diffusers, f"{name}Scheduler")).parameters


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        ("evil.py", {"_class_name": ["evil", "StableDiffusionPipeline"]}),
        ("text_encoder/evil.py", {"text_encoder": ["evil", "CLIPTextModel"]}),
        ("tokenizer/evil.py", {"tokenizer": ["evil", "CLIPTokenizer"]}),
    ],
)
def test_code_in_a_teachers_folder_is_never_run(place, changes, own_teacher):
    """It is not pinned either, since diffusers below 0.43 does not run it unless told to."""
    ran = own_teacher / "ran"
    (own_teacher / place).write_text(f"open({str(ran)!r}, 'w')\n")
    config(INDEX, **changes)(own_teacher)
    with pytest.raises(UserError):
        load_pipeline(own_teacher)
    if "tokenizer" not in changes:
        assert INDEX in refusal(own_teacher)
    assert not ran.exists()


# Checkpoints of one file.


@pytest.fixture(scope="module")
def singles(teacher, xl_teacher) -> dict[str, tuple[dict, Path]]:
    """By kind: the tensors of a checkpoint of one file, and the folder of its configs."""
    made = {"sd1": (teacher, False), "sd2": (teacher, True), "sdxl": (xl_teacher, False)}
    return {kind: (single(load_pipeline(folder), two=two), folder) for kind, (folder, two) in made.items()}


LOST = {
    "sd1": [
        ("model.diffusion_model.input_blocks.0.0.bias", "unet's conv_in.bias"),
        ("first_stage_model.decoder.conv_out.bias", "vae's decoder.conv_out.bias"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder's final_layer_norm.bias"),
    ],
    "sd2": [("cond_stage_model.model.ln_final.bias", "text_encoder's final_layer_norm.bias")],
    "sdxl": [
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
            "text_encoder's final_layer_norm.bias",
        ),
        ("conditioner.embedders.1.model.ln_final.bias", "text_encoder_2's text_model.final_layer_norm.bias"),
    ],
}


@pytest.mark.parametrize(("kind", "name", "said"), [(kind, *row) for kind, rows in LOST.items() for row in rows])
def test_a_single_file_is_compared_with_its_configs(kind, name, said, singles, tmp_path):
    content, configs = singles[kind]
    path = tmp_path / "model.safetensors"

    def checked(content: dict) -> None:
        save_file(content, path)
        check_teacher_weights(pin_teacher(asked(path, source="file", config=str(configs))))

    checked(content | {"model_ema.decay": torch.tensor(float("nan"))})  # which is not taken
    with pytest.raises(UserError) as caught:
        checked({key: value for key, value in content.items() if key != name})
    assert f"{path}: lacks the {said}" in str(caught.value) and "(1 missing in all)" in str(caught.value)
    with pytest.raises(UserError) as caught:
        checked(content | {name: torch.cat([content[name], content[name][:1]])})
    assert f"the {said}" in str(caught.value) and "is of shape" in str(caught.value)
    with pytest.raises(UserError) as caught:
        checked(content | {name: torch.full_like(content[name], float("nan"))})
    assert f"{path}: tensor {name} holds NaN" in str(caught.value)
