"""`stages/python`, which starts every stage: its interpreter is tested under DVC in test_graph.py."""

import subprocess
import sys

import pytest
from conftest import ROOT

ASK = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "None 3000"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "30000"}, "None 30000"),
    ],
)
def test_waiting_threads_spin_briefly_unless_the_user_says_otherwise(given, expected):
    environment = {"PATH": "/usr/bin:/bin", "PRUNELLA_PYTHON": sys.executable, **given}
    done = subprocess.run(
        ["sh", "stages/python", "-c", ASK], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected.split()
