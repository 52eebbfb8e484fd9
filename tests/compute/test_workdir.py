import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from prunella.compute import workdir
from prunella.compute.workdir import DONE
from prunella.errors import UserError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def resume_dir(stage: str, params: dict, inputs: list[Path]) -> Path:
    """The folder that was ours for a moment."""
    with workdir.resume_dir(stage, params, inputs) as folder:
        return folder


def test_what_changes_a_fingerprint(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")

    def folder(**params):
        return resume_dir("distill", {"steps": 1} | params, [data])

    first = folder()
    assert first == folder() and first.parent == tmp_path / "work" / "distill"
    assert folder(steps=2) != first
    (data / "a").write_text("2")
    changed = folder()
    assert changed != first
    (data / "a").rename(data / "b")
    assert folder() != changed


def code(folder: Path, text: str, monkeypatch) -> None:
    """A module of Prunella's is loaded whose file holds `text`."""
    (folder / "new.py").write_text(text)
    module = ModuleType("prunella.new")
    module.__file__ = str(folder / "new.py")
    monkeypatch.setitem(sys.modules, "prunella.new", module)


def test_other_code_goes_on_with_what_was_begun_only_when_told_to(tmp_path, monkeypatch):
    code(tmp_path, "1", monkeypatch)
    first = resume_dir("x", {}, [])
    code(tmp_path, "2", monkeypatch)
    assert resume_dir("x", {}, []) == first  # nothing is lost where nothing was kept
    (first / "step-000100.pt").touch()
    code(tmp_path, "3", monkeypatch)
    with pytest.raises(
        UserError, match=r"begun by other code: prunella\.new changed since\. PRUNELLA_ACCEPT_CODE=1 goes"
    ):
        resume_dir("x", {}, [])
    monkeypatch.setenv("PRUNELLA_ACCEPT_CODE", "1")
    assert resume_dir("x", {}, []) == first
    monkeypatch.delenv("PRUNELLA_ACCEPT_CODE")
    assert resume_dir("x", {}, []) == first  # it is theirs now
    assert (first / "step-000100.pt").exists()


def test_other_code_does_not_take_what_a_finished_run_gave(tmp_path, monkeypatch):
    code(tmp_path, "1", monkeypatch)
    folder = resume_dir("x", {}, [])
    (folder / "step-000100.pt").touch()
    (folder / DONE).write_text("{}")
    assert resume_dir("x", {}, []) == folder and (folder / DONE).exists()
    code(tmp_path, "2", monkeypatch)
    assert resume_dir("x", {}, []) == folder
    assert [path.name for path in folder.iterdir()] == ["code.json"]


def test_a_finished_runs_folder_goes_when_the_next_begins(tmp_path):
    one, two = (resume_dir("x", {"steps": steps}, []) for steps in (1, 2))
    (one / DONE).write_text("{}")
    resume_dir("y", {}, [])
    assert resume_dir("x", {"steps": 1}, []) == one and one.exists()
    resume_dir("x", {"steps": 3}, [])
    assert not one.exists() and two.exists()


WAITING = """
from prunella.compute.workdir import resume_dir
with resume_dir("x", {"steps": 1}, []) as folder:
    print("mine", (folder / "theirs").exists(), flush=True)
"""


def test_one_run_at_a_time_has_a_folder(tmp_path):
    with workdir.resume_dir("x", {"steps": 1}, []) as folder:
        other = subprocess.Popen([sys.executable, "-c", WAITING], cwd=ROOT / "src", stdout=subprocess.PIPE, text=True)
        assert "another run of the same training has" in other.stdout.readline()
        (folder / DONE).write_text("{}")
        resume_dir("x", {"steps": 2}, [])
        assert folder.exists()  # finished, but still in somebody's hands
        (folder / "theirs").touch()
    assert other.communicate()[0] == "mine True\n" and other.returncode == 0
