import pytest
import torch

from prunella.latents.encoders import Encoders
from prunella.models.pipeline import load_unet
from prunella.training.data import Batch
from prunella.training.text_encoders import UNetWithTextEncoders, load_with_text_encoders, make_parameter_groups
from prunella.training.trainable import TrainableState

SAID = ["a small red heart", "a large blue ring"]


def given(folder) -> tuple[UNetWithTextEncoders, Batch, Encoders]:
    own = Encoders(folder, "cpu")
    batch = Batch({**own.tokenize(SAID)[0], "dropped": torch.tensor([False, True])})
    return load_with_text_encoders(load_unet(folder), folder, "cpu"), batch, own


@pytest.mark.parametrize("model", ["teacher", "xl_teacher"])
def test_tokens_are_embedded_as_the_stock_pipeline_does_and_what_is_dropped_as_nothing(request, model):
    model, batch, own = given(request.getfixturevalue(model))
    with torch.no_grad():
        made = model.encode_captions(batch)
    expected, nothing = own.encode_captions(SAID), own.encode_empty()
    for ours, theirs in {"states": "text", "pooled": "pooled"}.items():
        assert (ours in made) == (theirs in expected)
        if ours in made:
            assert torch.allclose(made[ours][0], expected[theirs][0], atol=1e-5)
            assert torch.allclose(made[ours][1], nothing[theirs], atol=1e-5)
            assert not torch.allclose(made[ours][0], nothing[theirs], atol=1e-2)


def test_text_encoders_get_a_gradient_and_a_rate_of_their_own(teacher):
    model, batch, _ = given(teacher)
    model.encode_captions(batch)["states"].square().sum().backward()
    assert all(part.grad is not None for name, part in model.encoders.named_parameters() if "layers" in name)
    unet, texts = make_parameter_groups(model, 1e-5)
    assert "lr" not in unet and texts["lr"] == 1e-5 and "lr" not in make_parameter_groups(model, None)[1]
    assert len(unet["params"]) + len(texts["params"]) == len(TrainableState(model).parameters())
