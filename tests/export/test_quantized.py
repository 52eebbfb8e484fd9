import json
import subprocess
import sys

import pytest
import torch
from bits import needs_torchao
from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.export.quantized import write_quantized_export
from prunella.models.pipeline import load_unet
from prunella.profiling.disk import measure_disk_mb

pytestmark = needs_torchao
DRAWS = """
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
pipeline.safety_checker = None
image = pipeline("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
ours = any(name.startswith("prunella") for name in sys.modules)
print(type(pipeline.unet.conv_out.weight).__name__, image.size, ours)
"""


@pytest.mark.parametrize(("bits", "near"), [("int8", 0.02), ("fp8", 0.1)])
@pytest.mark.parametrize("student", ["pruned_tiny", "pruned_xl"])
def test_what_is_written_is_near_and_is_read_as_it_was(request, student, bits, near, tmp_path):
    folder = request.getfixturevalue(student)
    report = write_quantized_export(folder, tmp_path / "out", bits, "fp32")
    assert report == json.loads((tmp_path / "out" / "quantised.json").read_text())
    assert 0 < report["difference"] < near and 0 < report["quantised"] < 1
    assert report["unet_mb"] == measure_disk_mb(tmp_path / "out")["unet"]
    exact, ours = (
        UNet2DConditionModel.from_pretrained(each / "unet", torch_dtype=torch.float32)
        for each in (folder, tmp_path / "out")
    )
    assert torch.equal(exact.conv_in.weight, ours.conv_in.weight)
    linear = [name for name, module in exact.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in linear:
        wanted, found = exact.get_submodule(name).weight, ours.get_submodule(name).weight.dequantize()
        assert (found - wanted).norm() < near * wanted.norm(), name


def test_stock_diffusers_draws_with_it_in_a_process_without_prunella(pruned_tiny, tmp_path):
    write_quantized_export(pruned_tiny, tmp_path / "out", "int8", "fp32")
    said = subprocess.run(
        [sys.executable, "-P", "-c", DRAWS, tmp_path / "out"], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout
    side = load_unet(pruned_tiny).config.sample_size
    assert said.split() == ["Parameter", f"({4 * side},", f"{4 * side})", "False"]


def test_another_folder_is_left_and_an_earlier_export_replaced(pruned_tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="mine is there already and is no export of this kind"):
        write_quantized_export(pruned_tiny, tmp_path / "mine", "int8", "bf16")
    write_quantized_export(pruned_tiny, tmp_path / "out", "int8", "bf16")
    assert write_quantized_export(pruned_tiny, tmp_path / "out", "fp8", "bf16")["bits"] == "fp8"
