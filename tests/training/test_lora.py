import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import LORA
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from prunella.errors import UserError
from prunella.models.families import predict_with_unet
from prunella.models.pipeline import load_pipeline, load_unet, save_pipeline
from prunella.params import Lora, validate_config
from prunella.training import lora
from prunella.training.trainable import TrainableState


def lora_params(**changes) -> Lora:
    return validate_config(Lora, LORA | changes, "lora")


def adapted(folder, learnt: float = 0.0, **changes) -> UNet2DConditionModel:
    """The folder's UNet with matrices beside its weights; `learnt`: how far they are from where they begin."""
    unet, params = load_unet(folder), lora_params(**changes)
    lora.add_lora(unet, params, params.target_modules, seed=0)
    with torch.no_grad():
        for name, part in unet.named_parameters():
            if learnt and "lora_B" in name:
                part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(len(name))) * learnt)
    return unet.eval()


def example(unet, noise) -> dict:
    states = noise(2, 5, unet.config.cross_attention_dim)
    batch = {"noisy": noise(2, 4, 8, 8), "timesteps": torch.tensor([3, 700]), "states": states}
    if unet.config.addition_embed_type:
        batch |= {"pooled": noise(2, 20), "sizes": noise(2, 6)}
    return batch


def predicted(unet, batch) -> torch.Tensor:
    with torch.no_grad():
        return predict_with_unet(unet, batch["noisy"], batch["timesteps"], batch)


KINDS = [{}, {"dora": True}, {"rslora": True, "rank": 4}, {"target_modules": ["to_v", "conv1", "ff.net.2"]}]


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("model", ["pruned_tiny", "xl_teacher"])
def test_before_the_first_step_no_bit_is_another(request, noise, model, changes):
    folder = request.getfixturevalue(model)
    plain, unet = load_unet(folder), adapted(folder, **changes)
    merged = lora.merge_lora(unet).state_dict()
    assert merged.keys() == plain.state_dict().keys()
    assert all(torch.equal(merged[name], part) for name, part in plain.state_dict().items())
    batch = example(plain, noise)
    assert (predicted(plain, batch) - predicted(unet, batch)).abs().max() < 1e-6  # other sums, of weights and zeros


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("model", ["pruned_tiny", "xl_teacher"])
def test_merged_and_beside_give_the_same(request, noise, model, changes):
    folder = request.getfixturevalue(model)
    unet, batch = adapted(folder, learnt=0.3, **changes), example(load_unet(folder), noise)
    beside = predicted(unet, batch)
    assert (predicted(lora.merge_lora(unet), batch) - beside).abs().max() < 1e-5
    assert (predicted(load_unet(folder), batch) - beside).abs().max() > 1e-3
    assert torch.equal(predicted(unet, batch), beside)  # which merging left as it was


def test_only_the_matrices_learn(pruned_tiny):
    unet = adapted(pruned_tiny, target_modules=["to_q"], rank=3)
    plain = dict(load_unet(pruned_tiny).named_parameters())
    wide = [part.shape for name, part in plain.items() if name.endswith("to_q.weight")]
    assert TrainableState(unet).count() == sum(3 * (rows + columns) for rows, columns in wide)


def test_the_same_seed_begins_with_the_same_matrices(pruned_tiny):
    torch.manual_seed(1)
    one = TrainableState(adapted(pruned_tiny)).state_dict()
    torch.manual_seed(2)
    two = TrainableState(adapted(pruned_tiny)).state_dict()
    assert all(torch.equal(one[name], part) for name, part in two.items())


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("to_query", r"no module's name ends with 'to_query'; there are: .*proj_in.* to_k, .*to_q"),
        ("attn1", r"'attn1' names down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn1, a Attention; linear"),
    ],
)
def test_targets_that_are_none(pruned_tiny, target, said):
    with pytest.raises(UserError, match=f"finetune.lora.target_modules: {said}"):
        lora.add_lora(load_unet(pruned_tiny), lora_params(), ["to_q", target], seed=0)


def test_dora_of_a_text_encoder_is_refused():
    with pytest.raises(UserError, match="dora goes with the UNet alone"):
        lora_params(dora=True, text_encoder=True)


@pytest.mark.parametrize("changes", [{"rank": 8, "alpha": 2}, {"rank": 4, "alpha": 16, "rslora": True}])
def test_the_scale_is_in_the_tensors_so_that_who_reads_no_metadata_is_right(pruned_tiny, tmp_path, changes):
    unet = adapted(pruned_tiny, learnt=0.3, **changes)
    lora.save_lora(unet, {}, tmp_path)
    tensors, key = load_file(tmp_path / lora.FILE), "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    update = tensors[f"unet.{key}.lora.up.weight"] @ tensors[f"unet.{key}.lora.down.weight"]
    before, after = (model.get_submodule(key).weight for model in (load_unet(pruned_tiny), lora.merge_lora(unet)))
    assert update.abs().max() > 1e-3 and torch.allclose(update, after - before, atol=1e-6)
    stock = load_pipeline(pruned_tiny)
    stock.load_lora_weights(tmp_path)
    stock.unet.fuse_lora()
    assert torch.allclose(stock.unet.get_submodule(key).base_layer.weight, after, atol=1e-6)


STOCK = """
import sys
sys.modules["prunella"] = None  # import prunella raises ImportError from here on
import numpy, torch
from diffusers import DiffusionPipeline
base, adapter, whole, out = sys.argv[1:]
def drawn(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    return pipeline("a small red heart", num_inference_steps=3, output_type="np", generator=noise).images[0]
with_adapter = DiffusionPipeline.from_pretrained(base)
without = drawn(with_adapter)
with_adapter.load_lora_weights(adapter)
numpy.savez(out, drawn(with_adapter), drawn(DiffusionPipeline.from_pretrained(whole)), without)
"""


@pytest.mark.slow
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("model", ["pruned_tiny", "xl_teacher"])
def test_stock_diffusers_draws_the_same_with_adapter_and_merged(request, tmp_path, model, text):
    folder = request.getfixturevalue(model)
    unet, encoders = adapted(folder, learnt=0.3), {}
    if text:
        pipeline = load_pipeline(folder)
        encoders = {name: getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")}
        encoders = {name: part for name, part in encoders.items() if part is not None}
        for encoder in encoders.values():
            lora.add_lora(encoder, lora_params(), lora.ATTENTION_LAYERS, seed=0)
            for name, part in encoder.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.constant_(part, 0.3)
    merged = {name: lora.merge_lora(part) for name, part in encoders.items()}
    save_pipeline(folder, lora.merge_lora(unet), tmp_path / "whole", "fp32", **merged)
    lora.save_lora(unet, encoders, tmp_path / "whole")
    places = [folder, tmp_path / "whole", tmp_path / "whole", tmp_path / "pictures.npz"]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "pictures.npz") as pictures:
        beside, whole, without = pictures.values()
    assert np.abs(beside - whole).max() < 1e-3 < np.abs(beside - without).max()
