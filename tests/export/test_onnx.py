"""Exports take a minute each, so they are made once."""

import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT
from diffusers import DDIMScheduler
from PIL import Image

from prunella.errors import UserError
from prunella.export import onnx
from prunella.export.onnx import MAX_DIFFERENCE, check_onnx_installed, write_onnx
from prunella.models.pipeline import load_pipeline

STUDENTS = {"sd": "pruned_tiny", "sdxl": "pruned_xl"}  # the first has no mid block
PARTS = {"sd": ["text_encoder", "unet", "vae_decoder"]}
PARTS["sdxl"] = ["text_encoder", "text_encoder_2", "unet", "vae_decoder"]


@pytest.fixture
def exported(request, once):
    """A function from a family and a dtype to the student and its export."""

    def made(family, dtype):
        student = request.getfixturevalue(STUDENTS[family])
        return student, once(f"onnx-{family}-{dtype}", lambda out: write_onnx(student, out / "x", dtype)) / "x"

    return made


def ran(folder, part, **given):
    """What ONNX Runtime gives, by the outputs' names."""
    session = onnxruntime.InferenceSession(folder / part / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def apart(theirs: np.ndarray, ours: torch.Tensor) -> float:
    return float(np.abs(theirs - ours.numpy()).max()) / float(ours.abs().max())


def text_of(ours, folder) -> tuple[dict, dict]:
    """ "states" and, of SDXL, "pooled" by ONNX Runtime and by stock diffusers, of two prompts."""
    prompts = ["a small red heart", ""]
    states = []
    for name in ("tokenizer", "tokenizer_2"):
        if tokenizer := getattr(ours, name, None):
            ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="np").input_ids
            made = ran(folder, name.replace("tokenizer", "text_encoder"), input_ids=ids.astype(np.int64))
            states.append(made["hidden_states"])
    stock = ours.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    theirs = {"states": np.concatenate(states, 2), "pooled": made.get("text_embeds")}
    return theirs, {"states": stock[0], "pooled": stock[2] if len(states) > 1 else None}


def compare(family, student, folder, near):
    """Assert that all parts are within `near` of stock diffusers."""
    ours = load_pipeline(student, dtype=torch.float32)
    theirs, stock = text_of(ours, folder)
    assert apart(theirs["states"], stock["states"]) < near
    assert family == "sd" or apart(theirs["pooled"], stock["pooled"]) < near

    random = np.random.default_rng(1)
    noise = random.standard_normal((3, 4, 24, 8), np.float32)
    text = random.standard_normal((3, 5, ours.unet.config.cross_attention_dim), np.float32)
    times = np.array([3, 500, 999], np.float32)
    sizes = np.array([[32, 32, 0, 5, 1024, 768]] * 3, np.float32)
    beside = {"text_embeds": text[:, 0, :20], "time_ids": sizes} if family == "sdxl" else {}
    given = {"sample": noise, "timestep": times, "encoder_hidden_states": text, **beside}
    added = {name: torch.from_numpy(value) for name, value in beside.items()} or None
    told = ours.unet(*map(torch.from_numpy, (noise, times, text)), added_cond_kwargs=added).sample
    assert apart(ran(folder, "unet", **given)["out_sample"], told) < near
    pixels = ours.vae.decode(torch.from_numpy(noise)).sample
    assert apart(ran(folder, "vae_decoder", latent_sample=noise)["sample"], pixels) < near


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("sd", "fp32"), ("sdxl", "fp16")])
def test_onnx_runtime_gives_what_torch_gives(family, dtype, exported):
    """At a batch, a length of text and a size of which the exporter knows nothing."""
    (student, folder), near = exported(family, dtype), MAX_DIFFERENCE[dtype]
    report = json.loads((folder / "export.json").read_text())
    assert list(report["parts"]) == PARTS[family] and (report["dtype"], report["latents"]) == (dtype, [4, 8, 8])
    assert report["parts"]["unet"]["dtype"] == dtype and report["parts"]["unet"]["speedup"]["n"] == 6
    assert report["parts"]["vae_decoder"]["dtype"] == ("fp32" if family == "sdxl" else dtype)
    with torch.no_grad():
        compare(family, student, folder, near)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO: pip install openvino")
@pytest.mark.parametrize(("family", "dtype"), [("sd", "fp32"), ("sdxl", "fp16")])
def test_openvino_reads_them_as_they_are(family, dtype, exported, monkeypatch):
    import openvino

    def by_openvino(folder, part, **given):
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(folder / part / "model.onnx", "CPU", settings)
        return {name: value for output, value in compiled(given).items() for name in output.names}

    student, folder = exported(family, dtype)
    monkeypatch.setitem(globals(), "ran", by_openvino)
    with torch.no_grad():
        compare(family, student, folder, MAX_DIFFERENCE[dtype])


@pytest.mark.slow
def test_the_documented_code_draws_what_stock_diffusers_draws(exported, tmp_path):
    student, folder = exported("sd", "fp32")
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "sd-tiny-onnx").symlink_to(folder)
    (code,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = load_pipeline(student, dtype=torch.float32)
    ours.scheduler = DDIMScheduler.from_config(ours.scheduler.config)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = ours("a small red heart", num_inference_steps=25, guidance_scale=4.0, latents=latents).images[0]
    with Image.open(tmp_path / "heart.png") as picture:
        assert picture.size == (32, 32)
        assert np.abs(np.asarray(picture, int) - np.asarray(drawn, int)).max() <= 1


def test_an_export_that_differs_from_torch_is_refused_and_gone(pruned_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_write_onnx_module", lambda part, module, path: path.write_text("half"))
    for difference, dtype in ((1.1e-4, "fp32"), (math.inf, "fp16")):
        monkeypatch.setattr(onnx, "_compare_with_torch", lambda *_, found=difference: {"difference": found})
        with pytest.raises(UserError, match=r"text_encoder: ONNX Runtime differs .*of " + dtype):
            write_onnx(pruned_tiny, tmp_path / "out", dtype)
        assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is no export of this kind"):
        write_onnx(pruned_tiny, tmp_path / "out", "fp32")


def test_what_is_no_number_or_of_another_shape_differs():
    ours = np.array([1.0, -4.0, 2.0])
    assert onnx._relative_difference(ours, np.array([1.0, -4.0, 2.5])) == 0.125
    assert onnx._relative_difference(ours, np.array([1.0, -4.0, np.nan])) == math.inf
    assert onnx._relative_difference(ours, ours[:2]) == math.inf


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"needs onnxscript, not installed here: pip install 'prunella\[onnx\]'"):
        check_onnx_installed()
