import pytest
import torch
from conftest import DREAMBOOTH, TUNING
from torch import Tensor

from prunella.latents.encoders import open_latents
from prunella.params import Finetune, validate_config
from prunella.sampling import class_images
from prunella.sampling.class_images import make_class_latents


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def asked(**changes) -> Finetune:
    return validate_config(Finetune, TUNING | {"method": "dreambooth", "dreambooth": DREAMBOOTH | changes}, "finetune")


def rows(folder, model) -> dict[str, Tensor]:
    return open_latents(folder, model, "cpu")[0].get_batch(range(5))


@pytest.mark.parametrize(
    ("model", "pairs"), [("pruned_tiny", "latents"), ("xl_teacher", "xl_latents"), ("pruned_tiny", "token_latents")]
)
def test_pictures_of_the_class_are_pairs_like_those_of_the_thing(request, model, pairs):
    model, pairs = request.getfixturevalue(model), request.getfixturevalue(pairs)
    (train, none), like = (
        open_latents(make_class_latents(asked(), model, pairs, "cpu"), model, "cpu"),
        rows(pairs, model),
    )
    assert (len(train), len(none), train.captions[:3]) == (5, 0, ["a ring", "a red heart", "a ring"])
    drawn = train.get_batch(range(5))
    assert {name: part.shape for name, part in drawn.items()} == {name: part.shape for name, part in like.items()}
    assert drawn["mean"].std(0).mean() > 1e-3  # no two alike
    one, other, _, _, again = drawn["text"]
    assert torch.allclose(one, again, atol=1e-5) and not torch.allclose(one, other, atol=1e-2)


def test_an_interrupted_drawing_goes_on_and_a_finished_one_is_taken(pruned_tiny, latents, tmp_path, monkeypatch):
    whole = rows(make_class_latents(asked(), pruned_tiny, latents, "cpu"), pruned_tiny)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "again"))
    drawn, real = [], class_images.generate

    def draw(*given, **named):
        drawn.append(named["first_noise_id"])
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(class_images, "generate", draw)
    with pytest.raises(KeyboardInterrupt):
        make_class_latents(asked(), pruned_tiny, latents, "cpu")
    again = rows(make_class_latents(asked(), pruned_tiny, latents, "cpu"), pruned_tiny)
    make_class_latents(asked(), pruned_tiny, latents, "cpu")
    assert drawn == [0, 3, 3]  # three at a time, of five
    assert all(torch.equal(again[name], part) for name, part in whole.items())
