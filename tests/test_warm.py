"""What the stand-in for an interpreter does, that tests of the graph use."""

import os
import signal
import subprocess

import pytest
from conftest import ROOT


@pytest.fixture
def ended(warm, tmp_path):
    """Runs code as a stage; (status, output)."""

    def run(code: str) -> tuple[int, str]:
        (tmp_path / "stage.py").write_text(code)
        command = ["sh", ROOT / "stages" / "python", "stage.py", "--a", "b c"]
        environment = os.environ | warm | {"KNOWN": "here"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr.strip().rpartition("\n")[2]

    return run


@pytest.mark.slow
def test_it_is_like_an_interpreter_that_was_started(ended, tmp_path):
    told = "import os, sys; print(sys.argv, os.getcwd(), os.environ['KNOWN'], 'prunella' in sys.modules)"
    assert ended(told) == (0, f"['stage.py', '--a', 'b c'] {tmp_path} here False\n")
    assert ended("raise SystemExit(7)") == (7, "")
    assert ended("raise SystemExit('what is wrong')") == (1, "what is wrong")
    assert ended("1 / 0") == (1, "ZeroDivisionError: division by zero")
    assert ended("import os; os.kill(os.getpid(), 9)")[0] == 128 + signal.SIGKILL
    assert ended("import atexit; atexit.register(print, 'at exit')") == (0, "at exit\n")
