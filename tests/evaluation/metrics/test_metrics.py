"""The seam: a metric is a file of `prunella.evaluation.metrics`."""

import subprocess
import sys

import pytest
from conftest import ROOT

from prunella.errors import UserError
from prunella.evaluation.metrics import check_metrics, find_metric, list_metrics
from prunella.evaluation.metrics.base import make_report_entries
from prunella.params import read_params
from prunella.stats import Estimate


def test_every_file_is_a_metric_with_a_builder():
    assert set(list_metrics()) >= {"composition", "latent_kid", "latent_frechet"}
    assert all(callable(find_metric(name).build) for name in list_metrics())


def test_a_misspelt_metric_is_named_with_its_neighbour():
    with pytest.raises(UserError, match=r"benchmark\.metrics: .*'latent_kidd'.*'latent_kid'"):
        check_metrics(["composition", "latent_kidd"])


def test_the_seam_is_no_metric():
    with pytest.raises(UserError, match="'base'"):
        find_metric("base")


def test_the_committed_metrics_are_there():
    check_metrics(read_params().benchmark.metrics)


def test_names_are_checked_without_torch():
    code = (
        "import sys, prunella.evaluation.metrics as m; m.check_metrics(['latent_kid']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class Parted:
    def compute(self):
        return Estimate(0.5, 2, 0.1, 0.9)

    def breakdown(self):
        return {"a": Estimate(1.0, 1, 0.2, 1.0)}


def test_parts_are_reported_beside_the_whole():
    assert make_report_entries("some", Parted()) == {
        "some": {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9},
        "some_by": {"a": {"value": 1.0, "n": 1, "low": 0.2, "high": 1.0}},
    }
