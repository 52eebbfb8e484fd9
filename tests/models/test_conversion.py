import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import asked
from safetensors.torch import load_file, save_file
from singlefile import single

from prunella.errors import UserError
from prunella.models.conversion import SIZES_FILE
from prunella.models.pipeline import check_teacher_weights, load_pipeline, resolve_teacher_dir
from prunella.models.teacher import pin_teacher


@pytest.fixture
def pinned(teacher, tmp_path, monkeypatch) -> Path:
    """models/teacher.json of a checkpoint of one file, whose conversion is kept under `tmp_path`."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    save_file(single(load_pipeline(teacher)), tmp_path / "sd.safetensors")
    path = tmp_path / "teacher.json"
    path.write_text(json.dumps(pin_teacher(asked(tmp_path / "sd.safetensors", source="file", config=str(teacher)))))
    return path


CONVERT = """
import sys
from pathlib import Path
from prunella.models.pipeline import resolve_teacher_dir
print("ready", flush=True)
sys.stdin.readline()
print(resolve_teacher_dir(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_two_conversions_at_once_give_one_folder(pinned, tmp_path):
    command = [sys.executable, "-c", CONVERT, str(pinned)]
    both = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len({out for out, _ in told}) == 1
    folder = Path(told[0][0].strip())
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
    assert load_pipeline(folder).unet is not None


@pytest.mark.parametrize("lost", [SIZES_FILE, "vae/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_a_half_deleted_folder_is_made_anew(lost, pinned):
    folder = resolve_teacher_dir(pinned)
    made = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (folder / lost).unlink()
    left = folder.with_name(f"{folder.name}.half-1")  # by one that was killed
    left.mkdir()
    assert resolve_teacher_dir(pinned) == folder
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == made
    assert (folder / lost).is_file() and not left.exists()


def test_a_cut_file_of_the_folder_is_made_anew(pinned):
    folder = resolve_teacher_dir(pinned)
    weights = folder / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    resolve_teacher_dir(pinned)
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("value", [None, float("inf")])
def test_a_file_that_lacks_a_tensor_or_holds_no_numbers_is_never_converted(value, pinned, tmp_path):
    """As where the teacher stage of an earlier version, which did not look, has pinned it."""
    content, name = load_file(tmp_path / "sd.safetensors"), "model.diffusion_model.input_blocks.0.0.bias"
    content[name] = torch.full_like(content[name], value or 0)
    save_file({key: tensor for key, tensor in content.items() if value or key != name}, tmp_path / "sd.safetensors")
    known = json.loads(pinned.read_text())
    known["files"] = pin_teacher(asked(known["path"], source="file", config=known["config"]["path"]))["files"]
    pinned.write_text(json.dumps(known))
    said = f"tensor {name} holds NaN or inf" if value else r"lacks the unet's conv_in.bias \(1 missing"
    with pytest.raises(UserError, match=said):
        resolve_teacher_dir(pinned)
    assert not list((tmp_path / "work" / "teachers").glob(f"*/{SIZES_FILE}"))


def test_halves_that_do_not_hold_what_the_file_holds(pinned, tmp_path):
    content, name = load_file(tmp_path / "sd.safetensors"), "model.diffusion_model.input_blocks.0.0.bias"
    content = {key: value.half() if value.is_floating_point() else value for key, value in content.items()}
    content[name] = torch.full_like(content[name], 70_000.0, dtype=torch.float32)
    save_file(content, tmp_path / "sd.safetensors")
    known = json.loads(pinned.read_text())
    pinned.write_text(json.dumps(pin_teacher(asked(known["path"], source="file", config=known["config"]["path"]))))
    with pytest.raises(
        UserError, match=r"unet/diffusion_pytorch_model.safetensors: tensor conv_in.bias holds NaN or inf"
    ):
        resolve_teacher_dir(pinned)


def test_a_pickle_that_is_allowed_is_compared_as_well(pinned, tmp_path):
    content, path = load_file(tmp_path / "sd.safetensors"), tmp_path / "sd.ckpt"
    known = json.loads(pinned.read_text())
    options = {"source": "file", "config": known["config"]["path"], "allow_pickle": True}
    torch.save({"state_dict": content, "epoch": 3}, path)
    check_teacher_weights(pin_teacher(asked(path, **options)))
    del content["model.diffusion_model.input_blocks.0.0.bias"]
    torch.save({"state_dict": content}, path)
    with pytest.raises(UserError, match=r"sd.ckpt: lacks the unet's conv_in.bias"):
        check_teacher_weights(pin_teacher(asked(path, **options)))
