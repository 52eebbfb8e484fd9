import json
import shutil
from pathlib import Path

import loras
import pytest
import torch
from commands import refused, said
from loras import ALPHA, MODULES, RANK, matrices
from safetensors.torch import load_file, save_file

from prunella.errors import UserError
from prunella.models.pipeline import load_pipeline, load_unet
from prunella.pruning.lora_transfer import transfer_lora
from prunella.pruning.plan import SHIPPED_PLANS
from prunella.pruning.prune import prune_to_folder

LAYOUTS = (loras.diffusers, loras.older, loras.peft, loras.kohya)
WITHOUT = sorted(MODULES[:4])
# Of sd-tiny: the student's module → the teacher's, by hand; down stages keep the first pair, up stages the
# first and the last; the mid block and the deepest stages are gone.
COUNTERPARTS = {
    "up_blocks.2.resnets.1.conv1": MODULES[4],
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": MODULES[5],
    "down_blocks.1.attentions.0.proj_out": MODULES[6],
    "down_blocks.1.resnets.0.conv_shortcut": MODULES[7],
    "down_blocks.1.resnets.0.time_emb_proj": MODULES[8],
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v": MODULES[9],
    "down_blocks.0.downsamplers.0.conv": MODULES[10],
    "conv_in": "conv_in",
    "time_embedding.linear_2": MODULES[12],
}


def change(folder: Path, lora: Path) -> dict[str, torch.Tensor]:
    """What stock diffusers makes of each weight of the folder's UNet with the LoRA, less what it was."""
    before = load_unet(folder).state_dict()
    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    return {name: after[name].float() - value for name, value in before.items()}


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda layout: layout.__name__)
def test_every_layout_carries_the_same(layout, teacher, pruned_tiny, tmp_path):
    made = matrices(load_unet(teacher))
    for one in (loras.diffusers, layout):
        transfer_lora(one(tmp_path, made), pruned_tiny, teacher, tmp_path / f"{one.__name__}-out.safetensors")
    ours, theirs = (load_file(tmp_path / f"{one.__name__}-out.safetensors") for one in (layout, loras.diffusers))
    assert ours.keys() == theirs.keys() and len(ours) == 2 * len(COUNTERPARTS)
    for name in ours:
        assert torch.allclose(ours[name], theirs[name]), name


def test_the_students_change_is_the_teachers_at_each_counterpart(teacher, pruned_tiny, tmp_path):
    lora = loras.diffusers(tmp_path, matrices(load_unet(teacher)))
    done = transfer_lora(lora, pruned_tiny, teacher, tmp_path / "out.safetensors")
    assert sorted(done.modules) == sorted(COUNTERPARTS) and done.unmatched == WITHOUT and done.text_encoder_modules == 0
    made = matrices(load_unet(teacher))
    ours = change(pruned_tiny, tmp_path / "out.safetensors")
    for name, difference in ours.items():
        module = name.removesuffix(".weight")
        if module not in COUNTERPARTS:
            assert not difference.any(), name
            continue
        down, up = made[COUNTERPARTS[module]]
        expected = ALPHA / RANK * (up.flatten(1) @ down.flatten(1)).reshape(difference.shape)
        assert expected.abs().max() > 0.01
        assert torch.allclose(difference, expected, atol=1e-5), name


@pytest.mark.slow
def test_what_is_carried_to_the_teacher_itself_changes_it_as_the_lora_does(teacher, tmp_path):
    """A student that keeps everything: stock diffusers sees the same LoRA before and after."""
    plan = tmp_path / "whole.yaml"
    text = (SHIPPED_PLANS / "sd-small.yaml").read_text().splitlines()
    kept = {
        "down:": "down: [[0, 1], [0, 1], [0, 1], [0, 1]]",
        "up:": "up: [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]]",
    }
    plan.write_text("\n".join(kept.get(line.split(" ")[0], line) for line in text).replace("sd-small", "whole"))
    from prunella.params import Prune

    prune_to_folder(Prune(storage="fp32"), teacher, plan, tmp_path / "student")
    lora = loras.diffusers(tmp_path, matrices(load_unet(teacher)))
    done = transfer_lora(lora, tmp_path / "student", teacher, tmp_path / "out.safetensors")
    assert sorted(done.modules) == sorted(MODULES) and not done.unmatched
    theirs, ours = change(teacher, lora), change(tmp_path / "student", tmp_path / "out.safetensors")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


# The original's names of SDXL's blocks, as sd-scripts trains them (generative-models' UNet).
SGM = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2": "output_blocks.3.1.transformer_blocks.0.ff.net.2",
    "up_blocks.0.attentions.0.proj_out": "output_blocks.0.1.proj_out",
}


@pytest.fixture(scope="module")
def vega(xl_teacher, tmp_path_factory) -> Path:
    from prunella.params import Prune

    folder = tmp_path_factory.mktemp("vega") / "segmind-vega"
    prune_to_folder(Prune(storage="fp32"), xl_teacher, SHIPPED_PLANS / "segmind-vega.yaml", folder)
    return folder


def test_sdxls_original_names_are_read(xl_teacher, vega, tmp_path):
    made = matrices(load_unet(xl_teacher), tuple(SGM))
    named = loras.kohya(tmp_path, made, SGM)
    transfer_lora(named, vega, xl_teacher, tmp_path / "named.safetensors")
    transfer_lora(loras.diffusers(tmp_path, made), vega, xl_teacher, tmp_path / "plain.safetensors")
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("named", "plain"))
    assert one.keys() == two.keys() and one
    assert all(torch.allclose(one[name], two[name]) for name in one)


def test_text_encoders_updates_go_along(teacher, pruned_tiny, tmp_path):
    name = "text_model.encoder.layers.0.self_attn.q_proj"
    text = load_pipeline(teacher).text_encoder
    side = text.config.hidden_size
    down, up = torch.full((2, side), 0.1), torch.full((side, 2), 0.2)
    stem = f"lora_te_{name.replace('.', '_')}"
    lora = tmp_path / "text.safetensors"
    save_file(
        {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}, lora
    )
    done = transfer_lora(lora, pruned_tiny, teacher, tmp_path / "out.safetensors")
    assert (done.modules, done.unmatched, done.text_encoder_modules) == ([], [], 1)
    found = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(found[f"text_encoder.{name}.lora_B.weight"], up / 2)  # alpha 1 over rank 2
    pipeline = load_pipeline(pruned_tiny)
    pipeline.load_lora_weights(tmp_path, weight_name="out.safetensors")
    assert pipeline.get_active_adapters()


def spoilt(tmp_path: Path, made: dict, **changes) -> Path:
    lora = loras.older(tmp_path, made)
    save_file(load_file(lora) | changes, lora)
    return lora


def test_what_is_no_lora_for_the_teacher_is_refused(teacher, xl_teacher, pruned_tiny, vega, tmp_path):
    out, made = tmp_path / "out.safetensors", matrices(load_unet(teacher))

    def fault(lora: Path, student: Path = pruned_tiny, of: Path = teacher) -> str:
        with pytest.raises(UserError) as caught:
            transfer_lora(lora, student, of, out)
        assert not out.exists() and "\n" not in str(caught.value)
        return str(caught.value)

    xl = loras.kohya(tmp_path, matrices(load_unet(xl_teacher), tuple(SGM)), SGM)
    assert "made for another model" in fault(xl)
    assert "made for another model" in fault(loras.older(tmp_path, made), vega, xl_teacher)
    deep = spoilt(tmp_path, {}, **{f"unet.up_blocks.9.{kind}.lora.down.weight": torch.zeros(3, 4) for kind in "a"})
    assert "has two matrices that do not fit: without the second matrix" in fault(deep)
    pair = {f"unet.up_blocks.9.lora.{kind}.weight": torch.zeros(3, 3) for kind in ("down", "up")}
    assert "made for another model: Stable Diffusion 1.x or 2.x has no up_blocks.9" in fault(
        spoilt(tmp_path, {}, **pair)
    )
    wrong = spoilt(tmp_path, made, **{"unet.conv_in.lora.up.weight": torch.zeros(5, RANK, 1, 1)})
    assert "its conv_in is of 4 to 5 channels, this teacher's of 4 to" in fault(wrong)
    wrong = spoilt(tmp_path, made, **{"unet.conv_in.lora.up.weight": torch.zeros(32, RANK + 1, 1, 1)})
    assert "unet conv_in has two matrices that do not fit: of ranks 3 and 4" in fault(wrong)
    save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "flux.safetensors")
    assert "no LoRA of a Stable Diffusion: its names are such as 'transformer" in fault(tmp_path / "flux.safetensors")
    save_file({"lora_unet_conv_in.hada_w1_a": torch.zeros(2, 2)}, tmp_path / "loha.safetensors")
    assert "no LoRA but another adapter of LyCORIS" in fault(tmp_path / "loha.safetensors")
    save_file({"lora_unet_conv_in.dora_scale": torch.zeros(2, 2)}, tmp_path / "dora.safetensors")
    assert "a DoRA" in fault(tmp_path / "dora.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    assert "no safetensors file" in fault(tmp_path / "text.safetensors")
    assert "there is no such file" in fault(tmp_path / "absent.safetensors")
    assert "no unet/plan.yaml" in fault(loras.older(tmp_path, made), teacher)
    peft = loras.peft(tmp_path, made)
    (peft.parent / "adapter_config.json").unlink()
    assert "adapter_config.json" in fault(peft)


def test_the_command_names_what_it_wrote_and_what_has_no_counterpart(
    capsys, teacher, pruned_tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pruned_tiny, "models/distilled/sd-tiny")
    lora = loras.kohya(tmp_path, matrices(load_unet(teacher)))
    assert "--teacher: there is no models/teacher.json" in refused("convert-lora", str(lora), "sd-tiny")
    pinned = {"source": "folder", "path": str(teacher)}
    Path("models/teacher.json").write_text(json.dumps(pinned))
    told = said(capsys, "convert-lora", str(lora), "sd-tiny")
    assert f"{tmp_path}/kohya-sd-tiny.safetensors: 9 modules of the UNet, 0 of text encoders" in told
    assert f"without a counterpart in the student: {', '.join(WITHOUT)}" in told
    assert "neither a folder nor a student that is in models/" in refused("convert-lora", str(lora), "sd-huge")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "has numbers that are NaN or infinite"),
        (lambda tensor: tensor * float("inf"), "has numbers that are NaN or infinite"),
        (lambda tensor: tensor[:0], r"is empty, of shape \(0, "),
        (lambda tensor: tensor.to(torch.int8), "is of int8; a LoRA's tensors are of float32"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "is of float8_e4m3fn; a LoRA's tensors"),
        (lambda tensor: tensor[:, :, None, None], "matrices of 4 and 2 dimensions"),
    ],
)
def test_a_damaged_lora_is_refused_by_the_tensors_name(teacher, pruned_tiny, tmp_path, damage, message):
    lora = loras.diffusers(tmp_path, matrices(load_unet(teacher)))
    tensors = load_file(lora)
    down = next(name for name in tensors if "attn2.to_k" in name and ("lora_A" in name or "down" in name))
    save_file(tensors | {down: damage(tensors[down].clone()).contiguous()}, lora)
    with pytest.raises(UserError, match=message):
        transfer_lora(lora, pruned_tiny, teacher, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
