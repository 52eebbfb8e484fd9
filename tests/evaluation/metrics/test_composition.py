import numpy as np
import pytest

from prunella.evaluation.metrics.base import Unavailable
from prunella.evaluation.metrics.composition import Composition, build, measure_composition
from prunella.scenes.generator import render_sample
from prunella.scenes.judge import parse_scene_caption


@pytest.fixture
def scenes(vocabulary):
    """Six captions and pictures, the first picture black."""
    every = [render_sample(vocabulary, 2, i) for i in range(6)]
    captions, pictures = [text for text, _ in every], [picture for _, picture in every]
    return captions, [np.zeros_like(pictures[0]), *pictures[1:]]


def test_the_share_with_every_claim_true(scenes, vocabulary):
    captions, pictures = scenes
    metric = Composition(vocabulary)
    for some in (slice(0, 4), slice(4, 6)):
        metric.update(pictures[some], captions[some])
    whole, parts = metric.compute(), metric.breakdown()
    assert (whole.value, whole.n) == (pytest.approx(5 / 6), 6) and 0 < whole.low < 5 / 6 < whole.high <= 1
    assert parts["count"].value == pytest.approx(5 / 6)
    assert (
        parts["relation"].n == sum(parse_scene_caption(text, vocabulary).relation is not None for text in captions) > 0
    )
    assert list(parts) == ["background", "count", "colour", "shape", "size", "relation"]


def test_all_at_once_gives_the_same(scenes, vocabulary):
    captions, pictures = scenes
    found = measure_composition(pictures, captions, vocabulary)
    assert found["composition"]["value"] == pytest.approx(5 / 6, abs=1e-6) and found["composition"]["n"] == 6
    assert found["composition_by"]["count"]["n"] == 6


def test_captions_of_no_scene_are_not_measured(vocabulary):
    metric = Composition(vocabulary)
    metric.update([np.zeros((64, 64, 3), np.uint8)], ["a cat"])
    with pytest.raises(Unavailable, match=r"filter\.source: scenes"):
        metric.compute()
    assert measure_composition([np.zeros((64, 64, 3), np.uint8)], ["a cat"], vocabulary) == {}


def test_other_data_than_scenes_are_not_measured(subject):
    with pytest.raises(Unavailable, match="scenes"):
        build(subject)
