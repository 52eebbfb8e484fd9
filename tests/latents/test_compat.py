import json
import shutil

import pytest

from prunella.errors import UserError
from prunella.latents.compat import check_compatible
from prunella.latents.shards import LatentDataset


def test_a_student_learns_from_its_teachers_pairs(latents, pruned_tiny, xl_latents, xl_teacher):
    check_compatible(LatentDataset(latents, "train"), pruned_tiny)
    check_compatible(LatentDataset(xl_latents, "train"), xl_teacher)


@pytest.mark.parametrize(
    ("pairs", "model", "said"),
    [
        ("xl_latents", "pruned_tiny", "pairs of Stable Diffusion XL, .* of family Stable Diffusion 1.x or 2.x"),
        ("latents", "xl_teacher", "pairs of Stable Diffusion 1.x or 2.x, .* of family Stable Diffusion XL"),
    ],
)
def test_another_family(request, pairs, model, said):
    pairs, model = request.getfixturevalue(pairs), request.getfixturevalue(model)
    with pytest.raises(UserError, match=f"{pairs} holds {said}; encode pictures") as caught:
        check_compatible(LatentDataset(pairs, "train"), model)
    assert str(model) in str(caught.value)


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("unet", "cross_attention_dim", 768, "with text of width 24, .* of width 768"),
        ("unet", "in_channels", 16, "of 4 channels, .* of 16"),
        ("vae", "scaling_factor", 0.5, r"of another VAE \(\w{16}\), .* with one of its own \(\w{16}\)"),
    ],
)
def test_another_vae_or_text_encoder(latents, pruned_tiny, tmp_path, part, key, value, said):
    model = shutil.copytree(pruned_tiny, tmp_path / "model")
    path = model / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=said):
        check_compatible(LatentDataset(latents, "train"), model)
