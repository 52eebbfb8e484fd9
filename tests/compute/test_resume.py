import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from prunella.compute import resume
from prunella.compute.resume import DONE_FILE, IDENTITY_FILE, Identity, compute_identity, digest_code
from prunella.errors import UserError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def of(code: str = "c", **params) -> Identity:
    return Identity(params, [], code)


def resume_dir(stage: str, ours: Identity) -> Path:
    """The folder that was ours for a moment."""
    with resume.open_run_dir(stage, ours) as folder:
        return folder


def test_parameters_and_the_content_of_inputs_decide_the_folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")

    def folder(**params):
        return resume_dir("distill", compute_identity({"steps": 1} | params, [data], ("errors.py",)))

    first = folder()
    assert first == folder() and first.parent == tmp_path / "work" / "distill"
    assert folder(steps=2) != first
    (data / "a").write_text("2")
    changed = folder()
    assert changed != first
    (data / "a").rename(data / "b")
    assert folder() != changed


def test_a_key_that_a_newer_version_added_counts_as_its_default(monkeypatch):
    old = resume_dir("distill", of(steps=1))
    monkeypatch.setattr(
        resume, "load_shipped_defaults", lambda: {"distill": {"steps": 7, "added": 0.5, "storage": "fp16"}}
    )
    assert resume_dir("distill", of(steps=1, added=0.5)) == old
    assert json.loads((old / IDENTITY_FILE).read_text())["params"] == {"steps": 1, "added": 0.5}
    assert resume_dir("distill", of(steps=1, added=0.4)) != old
    assert resume_dir("distill", of(steps=1)) != old  # a key that went is no key at its default


def test_the_code_of_a_room_is_its_python_and_yaml_files(tmp_path):
    room = tmp_path / "room"
    (room / "__pycache__").mkdir(parents=True)
    (room / "a.py").write_text("1")
    first = digest_code(("room",), tmp_path)
    (room / "__pycache__" / "a.pyc").write_text("2")
    assert digest_code(("room",), tmp_path) == digest_code(("room/a.py",), tmp_path) == first
    (room / "plan.yaml").write_text("3")
    second = digest_code(("room",), tmp_path)
    (room / "a.py").rename(room / "b.py")
    assert len({first, second, digest_code(("room",), tmp_path)}) == 3


def test_other_code_does_not_go_on_with_what_was_begun(tmp_path):
    first = resume_dir("x", of("1"))
    assert resume_dir("x", of("2")) == first  # nothing is lost where nothing was kept
    (first / "step-000100.pt").touch()
    with pytest.raises(UserError, match=r"begun by other code; `prunella accept x`"):
        resume_dir("x", of("3"))
    assert resume_dir("x", of("2")) == first and (first / "step-000100.pt").exists()


def test_other_code_does_not_take_what_a_finished_run_gave():
    folder = resume_dir("x", of("1"))
    (folder / "step-000100.pt").touch()
    (folder / DONE_FILE).write_text("{}")
    assert resume_dir("x", of("1")) == folder and (folder / DONE_FILE).exists()
    assert resume_dir("x", of("2")) == folder
    assert [path.name for path in folder.iterdir()] == [IDENTITY_FILE]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_note_makes_a_new_run(content):
    folder = resume_dir("x", of("1"))
    (folder / "step-000100.pt").touch()
    (folder / IDENTITY_FILE).write_text(content)
    with pytest.warns(UserWarning, match=f"{IDENTITY_FILE}: damaged"):
        assert resume_dir("x", of("1")) == folder
    assert not (folder / "step-000100.pt").exists()


def test_finished_runs_are_swept_when_asked(tmp_path):
    one, two, three = (resume_dir("x", of(steps=steps)) for steps in (1, 2, 3))
    for folder in (one, two):
        (folder / DONE_FILE).write_text("{}")
    with resume.lock_run_dir(two, wait=False):
        resume.remove_finished_runs("x", retained_dir=three)
    assert not one.exists() and two.exists() and three.exists()
    resume.remove_finished_runs("x", retained_dir=two)
    assert two.exists()


WAITING = """
from prunella.compute.resume import Identity, open_run_dir
with open_run_dir("x", Identity({"steps": 1}, [], "c")) as folder:
    print("mine", (folder / "theirs").exists(), flush=True)
"""


def test_one_run_at_a_time_has_a_folder():
    with resume.open_run_dir("x", of(steps=1)) as folder:
        other = subprocess.Popen([sys.executable, "-c", WAITING], cwd=ROOT / "src", stdout=subprocess.PIPE, text=True)
        assert "another run of the same training has" in other.stdout.readline()
        (folder / "theirs").touch()
    assert other.communicate()[0] == "mine True\n" and other.returncode == 0
