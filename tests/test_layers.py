"""The floors of the house, as import-linter's contracts in pyproject.toml state them."""

import ast
import re
import subprocess
import sys
import tomllib
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


def test_the_page_of_the_architecture_has_the_packages_docstrings_in_the_order_of_the_layers():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    described = {}
    for path in [*(ROOT / "src" / "prunella").glob("*/__init__.py"), ROOT / "src" / "prunella" / "api.py"]:
        name = path.parent.name if path.name == "__init__.py" else path.stem
        described[name] = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    table = dict(rows[: len(described)])
    assert table == described
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    in_order = [name.removeprefix("prunella.") for layer in layers for name in layer.split(" : ")]
    assert list(table) == [name for name in in_order if name in described]
