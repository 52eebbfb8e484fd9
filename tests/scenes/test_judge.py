import numpy as np
import pytest
from scipy import ndimage

from prunella.scenes.generator import Scene, SceneObject, render_sample, render_scene
from prunella.scenes.judge import detect_objects, judge_image, parse_scene_caption


@pytest.fixture(scope="module")
def scenes(vocabulary):
    """1,000 unseen scenes."""
    return [render_sample(vocabulary, 123, i) for i in range(1000)]


def right(scenes, vocabulary) -> float:
    return float(np.mean([all(judge_image(picture, caption, vocabulary).values()) for caption, picture in scenes]))


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)


def test_true_scenes_are_judged_true(scenes, vocabulary):
    assert right(scenes, vocabulary) >= 0.995


def test_mild_blur_is_forgiven(scenes, vocabulary):
    assert right([(caption, blurred(picture, 0.9)) for caption, picture in scenes[:500]], vocabulary) >= 0.90


def test_shuffled_captions_are_judged_false(scenes, vocabulary):
    pictures = [picture for _, picture in scenes]
    shuffled = [(caption, pictures[i - 1]) for i, (caption, _) in enumerate(scenes)]
    assert right(shuffled, vocabulary) <= 0.01


SCENE = Scene((SceneObject("small", "red", "heart"), SceneObject("large", "blue", "ring")), "above", "grey")


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a small red heart above a large blue ring on a grey background", set()),
        ("a large blue ring below a small red heart, grey background", set()),
        ("a small red heart above a large blue ring on a white background", {"background"}),
        ("a small green heart above a large blue ring on a grey background", {"colour"}),
        ("a small blue heart above a large red ring on a grey background", {"colour"}),
        ("a small red star above a large blue ring on a grey background", {"shape"}),
        ("a large red heart above a large blue ring on a grey background", {"size"}),
        ("a small red heart below a large blue ring on a grey background", {"relation"}),
        ("a small red heart left of a large blue ring on a grey background", {"relation"}),
        ("a small red heart on a grey background", {"count", "colour", "shape", "size"}),
    ],
)
def test_each_claim_fails_by_itself(vocabulary, caption, wrong):
    picture = render_scene(SCENE, vocabulary, np.random.default_rng(4))
    verdict = judge_image(picture, caption, vocabulary)
    assert {claim for claim, holds in verdict.items() if not holds} == wrong
    assert ("relation" in verdict) == (" ring " in caption)


def test_an_empty_picture_has_a_background_and_no_things(vocabulary):
    assert detect_objects(np.full((64, 64, 3), 20, np.uint8), vocabulary) == ("black", [])


def test_noise_is_no_scene(vocabulary):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    verdict = judge_image(noise, "a small red heart on a white background", vocabulary)
    assert not verdict["shape"] and not all(verdict.values())


def test_radius_and_place_are_measured(vocabulary):
    scene = Scene((SceneObject("large", "green", "disc"),), None, "white")
    random = np.random.default_rng(8)
    radius = np.random.default_rng(8).uniform(12.5, 14.0)  # the renderer's first lot is the radius
    (thing,) = detect_objects(render_scene(scene, vocabulary, random), vocabulary)[1]
    assert thing.radius == pytest.approx(radius, abs=0.1)
    assert thing.colour == "green" and thing.shape == "disc"


@pytest.mark.parametrize("caption", ["", "a cat", "a small red heart", "a red heart on a grey background"])
def test_captions_of_no_scene_are_not_judged(vocabulary, caption):
    assert parse_scene_caption(caption, vocabulary) is None
    assert judge_image(np.zeros((64, 64, 3), np.uint8), caption, vocabulary) is None


def test_every_phrasing_is_parsed_back(vocabulary):
    for phrasing in vocabulary.phrasings:
        assert parse_scene_caption(SCENE.format_caption(phrasing), vocabulary) == SCENE
