import subprocess
import sys

import pytest
from conftest import ROOT

from prunella import __version__
from prunella.cli.main import GROUPS, main


def test_help_explains_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in ("summary", "check", "students", "ui", "download", "bench"))


def printed(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    return done.stdout


def test_the_package_runs_as_a_program_and_says_its_version():
    assert printed("-m", "prunella", "--version") == f"prunella {__version__}\n"


def test_help_comes_at_once_since_nothing_large_is_imported():
    code = "import sys, prunella.cli.main as it; it._parser().format_help(); print(*sys.modules)"
    loaded = set(printed("-c", code).split())
    assert {f"prunella.cli.{group.__name__.rsplit('.')[-1]}" for group in GROUPS} <= loaded
    assert loaded.isdisjoint({"torch", "numpy", "pyarrow", "pydantic", "yaml", "mlflow", "dvc", "diffusers"})
