import numpy as np
import pytest

from prunella.errors import UserError
from prunella.scenes.generator import (
    SHAPE_DISTANCES,
    Scene,
    SceneObject,
    make_scene,
    read_vocabulary,
    render_coverage,
    render_sample,
    render_scene,
)


def test_captions_are_plain_english(vocabulary):
    heart, ring = SceneObject("small", "red", "heart"), SceneObject("large", "orange", "ring")
    two = Scene((heart, ring), "left of", "grey")
    assert two.format_caption(vocabulary.phrasings[0]) == (
        "a small red heart left of a large orange ring on a grey background"
    )
    assert Scene((heart,), None, "black").format_caption("on a {background} background, {objects}") == (
        "on a black background, a small red heart"
    )


def test_same_seed_same_picture_other_seed_other_picture(vocabulary):
    first, again, other = (render_sample(vocabulary, seed, 7) for seed in (1, 1, 2))
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert first[1].shape == (64, 64, 3) and first[1].dtype == np.uint8


def test_a_tenth_of_the_combinations_is_never_drawn(vocabulary):
    seen, unseen = vocabulary.combinations[False], vocabulary.combinations[True]
    assert (len(seen), len(unseen)) == (76, 8)  # of 2 sizes × 6 colours × 7 shapes = 84
    assert not set(seen) & set(unseen)
    random = np.random.default_rng(3)
    drawn = {(t.size, t.colour, t.shape) for _ in range(2000) for t in make_scene(vocabulary, random).objects}
    assert drawn == set(seen)
    for _ in range(50):
        words = {(t.size, t.colour, t.shape) for t in make_scene(vocabulary, random, unseen=True).objects}
        assert len(words & set(unseen)) == 1


def test_about_half_of_the_scenes_have_two_things(vocabulary):
    random = np.random.default_rng(0)
    counts = [len(make_scene(vocabulary, random).objects) for _ in range(1000)]
    assert set(counts) == {1, 2} and 440 < counts.count(2) < 560


@pytest.mark.parametrize("relation", ["above", "below", "left of", "right of"])
def test_things_stand_as_said_and_inside_the_picture(vocabulary, relation):
    scene = Scene((SceneObject("large", "red", "disc"), SceneObject("large", "blue", "square")), relation, "white")
    for seed in range(20):
        picture = render_scene(scene, vocabulary, np.random.default_rng(seed)).astype(int)
        red, blue = picture[..., 0] - picture[..., 2] > 60, picture[..., 2] - picture[..., 0] > 60
        y, x = np.argwhere(red).mean(0) - np.argwhere(blue).mean(0)
        stands = {"above": y < 0, "below": y > 0, "left of": x < 0, "right of": x > 0}
        assert stands[relation] and abs(y if "of" in relation else x) < 8.1
        assert np.ptp(picture[[0, -1]], axis=(0, 1)).max() == 0  # no thing touches the border


@pytest.mark.parametrize("shape", sorted(SHAPE_DISTANCES))
def test_edges_are_anti_aliased_and_shapes_centred(shape):
    cover = render_coverage(shape, 16.0, 16.0, 10.0, 33)
    assert cover.min() == 0 and cover.max() == 1 and ((cover > 0.2) & (cover < 0.8)).sum() > 10
    assert np.allclose(cover[:, :32], cover[:, 31::-1], atol=1e-4)  # every shape is its own mirror image


def test_the_area_of_a_square_by_hand():
    # Half a side is 0.76 of the radius.
    assert render_coverage("square", 20.0, 20.0, 10.0, 40).sum() == pytest.approx(15.2**2, rel=0.01)


def test_vocabularies_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such vocabulary"):
        read_vocabulary(tmp_path / "scenes.yaml")
    (tmp_path / "scenes.yaml").write_text("picture: 64\nform: [disc]\n")
    with pytest.raises(UserError, match="form"):
        read_vocabulary(tmp_path / "scenes.yaml")


def test_a_shape_that_cannot_be_drawn_is_named(tmp_path, vocabulary):
    from conftest import ROOT

    text = (ROOT / "data" / "scenes.yaml").read_text().replace("[disc,", "[blob,")
    (tmp_path / "scenes.yaml").write_text(text)
    with pytest.raises(UserError, match="no shape is called 'blob'; there are disc, ring"):
        read_vocabulary(tmp_path / "scenes.yaml")
