import pytest

from prunella.evaluation.metrics.base import Unavailable
from prunella.evaluation.metrics.latent_frechet import build


def test_fewer_than_ten_pictures_a_feature_are_refused(subject):
    with pytest.raises(Unavailable, match=r"640 of each .* 10 a feature"):
        build(subject)
