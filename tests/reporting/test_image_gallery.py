import base64
import io

import numpy as np
import pytest
from PIL import Image
from reported import QUALITY, cards

from prunella.reporting.image_gallery import (
    MAX_LOSSLESS_SIDE,
    MAX_SIDE,
    MAX_STEPS_SHOWN,
    MIN_PROMPTS,
    encode_webp_uri,
    limit_prompts,
    load_training_images,
)


def picture(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_card_has_every_models_picture_and_what_it_lost():
    first, second = cards()
    assert list(first["cells"]) == list(QUALITY) and first["claims"] == ["count", "shape"]
    assert [cell["false"] for cell in first["cells"].values()] == [[], ["shape"], ["shape"]]
    assert [cell["false"] for cell in second["cells"].values()] == [[], [], []]
    assert (picture(first["cells"]["sd-tiny/distilled"]["source"]) == 20).all()


def test_losses_are_of_the_prompts_own_pair_and_of_the_teachers_picture():
    first, second = (card["cells"]["sd-tiny/distilled"] for card in cards())
    assert (first["error"], second["error"]) == (0.5, 0.25)  # pairs 1 and 0
    assert first["apart"] == pytest.approx((20 / 255) ** 2, abs=1e-5)
    assert cards()[0]["cells"]["teacher"]["error"] is None and cards()[0]["cells"]["teacher"]["apart"] == 0


def test_small_pictures_lose_nothing_and_large_ones_are_reduced():
    noise = np.random.default_rng(0)
    small = noise.integers(0, 256, (MAX_LOSSLESS_SIDE, MAX_LOSSLESS_SIDE - 3, 3), dtype=np.uint8)
    assert (picture(encode_webp_uri(small)) == small).all()
    large = noise.integers(0, 256, (MAX_SIDE * 2, MAX_SIDE, 3), dtype=np.uint8)
    assert picture(encode_webp_uri(large)).shape == (MAX_SIDE, MAX_SIDE // 2, 3)


def test_the_page_shows_fewer_prompts_where_pictures_and_models_are_many():
    assert limit_prompts(7, 64, 64) == 64
    assert limit_prompts(7, 512, 30_000) == 40_000_000 // (7 * MAX_SIDE**2) == 38
    assert (
        limit_prompts(28, 1024, 30_000) == 9
        and limit_prompts(100, 1024, 30_000) == MIN_PROMPTS
        and limit_prompts(7, 64, 5) == 5
    )


def test_pictures_of_a_training_are_the_first_the_last_and_a_few_between(tmp_path):
    folder = tmp_path / "distill" / "a" / "samples"
    folder.mkdir(parents=True)
    for step in range(0, 2100, 100):
        Image.new("RGB", (1400, 70)).save(folder / f"{step}.png")
    found = load_training_images(tmp_path, ["a", "b"])
    assert list(found) == ["distill/a"]
    assert [step for step, _ in found["distill/a"]] == [0, 500, 1000, 1500, 2000] and len(
        found["distill/a"]
    ) == MAX_STEPS_SHOWN
    assert picture(found["distill/a"][0][1]).shape == (35, 700, 3)
