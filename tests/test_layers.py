"""The floors of the house, as import-linter's contracts in pyproject.toml state them."""

import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_no_lower_floor_imports_a_higher_one():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


BARE = """
import sys
sys.modules["mlflow"] = sys.modules["dvc"] = None  # importing either raises ImportError
import prunella.training.trainer, prunella.encoding.encode, prunella.data.filter, prunella.pruning.prune
import prunella.sampling.benchmark_images, prunella.evaluation.score, prunella.profiling.cost
import prunella.miniature.making
"""


def test_training_and_benchmark_need_neither_mlflow_nor_dvc():
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT / "src", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
