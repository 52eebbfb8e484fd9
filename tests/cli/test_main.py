import subprocess
import sys

import pytest
from commands import refused
from conftest import ROOT

from prunella import __version__
from prunella.cli.main import MODULES, main


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
    code = "import sys, prunella.cli.main as it; it._build_parser().format_help(); print(*sys.modules)"
    loaded = set(printed("-c", code).split())
    assert {f"prunella.cli.{module.__name__.rsplit('.')[-1]}" for module in MODULES} <= loaded
    assert loaded.isdisjoint({"torch", "numpy", "pyarrow", "pydantic", "yaml", "mlflow", "dvc", "diffusers"})


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands(shell):
    script = printed("-m", "prunella", "--print-completion", shell)
    assert "summary" in script and "sample" in script


def test_a_reader_that_has_enough_is_no_fault():
    command = f"{sys.executable} -m prunella plan ssd-1b | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT / "src", capture_output=True, check=False)
    assert done.stderr == b""


def test_a_file_that_cannot_be_written_is_named():
    assert "missing/x.svg: No such file" in refused("plan", "sd-tiny", "--svg", "--out", "missing/x.svg")
