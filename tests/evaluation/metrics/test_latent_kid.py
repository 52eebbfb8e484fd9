import numpy as np
import pytest

from prunella.evaluation.metrics.base import Unavailable
from prunella.evaluation.metrics.latent_kid import build


def test_real_pictures_are_the_floor(subject):
    metric = build(subject)
    floor = metric.real_data_floor()
    assert floor.n == 3 and floor.low < 0 < floor.high
    metric.update([np.zeros((32, 32, 3), np.uint8)] * 3, ["a", "b", "c"])
    assert metric.compute().value > floor.value and metric.breakdown() == {}
    values = metric.values()
    assert len(values[""]) == 3 and len(values["_real"]) == 4
    assert np.mean(values[""]) == pytest.approx(metric.compute().value)


def test_too_few_pictures_are_not_measured(make_subject):
    with pytest.raises(Unavailable, match=r"2 drawn and 5 real .* 3 of each"):
        build(make_subject(2))
