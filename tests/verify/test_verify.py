"""`prunella accept` on a clone of this repository where a student has been distilled."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import said
from conftest import ROOT
from toygraph import ACCEPT_DISTILL, DVC, cloned, committed, run, stages_run
from toygraph import IDENTITY as OURSELVES

from prunella.compute.resume import DONE_FILE, IDENTITY_FILE, digest_code
from prunella.errors import UserError
from prunella.verify import toys
from prunella.verify.trial import drop_unknown_keys, find_upstream_stages, load_code_version, merge_defaults
from prunella.verify.verify import CommitCandidate, CommitCandidates, accept

LOSSES = "src/prunella/training/losses.py"


def test_both_versions_take_the_same_values_for_the_keys_they_know():
    old, new = {"a": {"x": 1, "went": 2}, "free": {}}, {"a": {"x": 3, "came": 4}, "free": {}, "b": 5}
    both = merge_defaults(old, new)
    assert both == {"a": {"x": 3, "went": 2, "came": 4}, "free": {}, "b": 5}
    assert drop_unknown_keys(both | {"free": {"any": 1}}, old) == {"a": {"x": 3, "went": 2}, "free": {"any": 1}}
    assert drop_unknown_keys(both, new) == {"a": {"x": 3, "came": 4}, "free": {}, "b": 5}


def test_the_stages_before_are_found_by_what_they_give(request):
    graph = load_code_version(request.config.rootpath)
    assert find_upstream_stages(["filter"], graph) == ["check"]
    measured = ["filter", "check_pairs", "encode", "latency"]  # which a plan that chooses itself asks for
    assert find_upstream_stages(["prune"], graph) == ["check", "teacher", *measured, "plan"]
    assert find_upstream_stages(["distill"], graph) == ["check", "teacher", "phases", *measured, "plan", "prune"]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository with this graph, a training room of one module, and nothing that has run; its first commit."""
    root = tmp_path / "repository"
    (root / "src/prunella/training").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(ROOT / name, root / name)
    (root / "src/prunella/training/trainer.py").write_text('CODE_DEPS = ("training",)\n')
    (root / ".gitignore").write_text("/work/\n")
    run(root, "git", "init", "--quiet")
    for key, value in OURSELVES.items():
        run(root, "git", "config", key, value)
    committed(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    return root


def begun(root: Path, name: str, code: str) -> Path:
    """A training of that code in work/."""
    folder = root / "work" / "distill" / name
    folder.mkdir(parents=True)
    (folder / IDENTITY_FILE).write_text(json.dumps({"params": {}, "inputs": [], "code": code}))
    return folder


def test_an_unfinished_training_belongs_to_the_commit_that_began_it(repository):
    job = repository / "src/prunella/training/trainer.py"
    commit = run(repository, "git", "rev-parse", "HEAD").strip()
    folder = begun(repository, "aa", digest_code(("training",), repository / "src/prunella"))
    assert CommitCandidates(["distill@sd-tiny"], repository).by_commit == {}  # no other code
    job.write_text('CODE_DEPS = ("training", "models")\n')
    committed(repository)
    job.write_text('CODE_DEPS = ("training", "models")  # not committed\n')
    claims = CommitCandidates(["distill@sd-tiny", "distill@sd-small"], repository)
    assert claims.by_commit == {commit: CommitCandidate([], {"distill": [folder]})} and claims.is_acceptable
    assert CommitCandidates(["finetune@sd-tiny"], repository).by_commit == {}


def test_module_and_list_of_code_may_have_had_other_names(repository):
    """Those of `prunella.params.renames`."""
    old, new = (repository / "src/prunella/training" / name for name in ("job.py", "trainer.py"))
    new.rename(old)
    old.write_text('ROOMS = ("training",)\n')
    committed(repository)
    commit = run(repository, "git", "rev-parse", "HEAD").strip()
    folder = begun(repository, "aa", digest_code(("training",), repository / "src/prunella"))
    old.rename(new)
    new.write_text('CODE_DEPS = ("training",)\n')
    committed(repository)
    claims = CommitCandidates(["distill@sd-tiny"], repository)
    assert claims.by_commit == {commit: CommitCandidate([], {"distill": [folder]})} and claims.is_acceptable


def test_an_unfinished_training_by_code_that_was_never_committed_is_refused(repository):
    folder = begun(repository, "aa", "0123456789abcdef")
    claims = CommitCandidates(["distill@sd-tiny"], repository)
    assert list(claims.refused) == [str(folder)] and not claims.is_acceptable
    (folder / DONE_FILE).write_text("{}")
    assert CommitCandidates(["distill@sd-tiny"], repository).is_acceptable


@pytest.fixture(scope="module")
def graph(teacher, pictures, tmp_path_factory, warm) -> Path:
    """The clone after `dvc repro distill@sd-tiny`; tests work on copies of it."""
    clone = cloned(teacher, pictures, tmp_path_factory.mktemp("accept"), students=["sd-tiny"])
    run(clone, DVC, "repro", "distill@sd-tiny", **warm)
    committed(clone)
    return clone


@pytest.fixture
def clone(graph, tmp_path, monkeypatch) -> Path:
    copy = Path(shutil.copytree(graph, tmp_path / "clone", symlinks=True))
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(copy))
    monkeypatch.setitem(toys.TOYS_OF_STAGE, "distill", ("sd",))  # one toy of five
    return copy


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def to_run(clone: Path) -> set[str]:
    """The stages that have to run, but for those of plans, which depend on training as well and take seconds."""
    return stages_run(run(clone, DVC, "repro", "--dry", "distill@sd-tiny")) - {"latency", "plan@sd-tiny"}


def notes(clone: Path) -> dict[str, dict]:
    """What is noted beside each state of a distillation."""
    return {path.parent.name: json.loads(path.read_text()) for path in clone.glob(f"work/distill/*/{IDENTITY_FILE}")}


@pytest.mark.graph
def test_a_refactoring_is_accepted_and_its_states_go_on(clone, capsys):
    assert "nothing to accept" in said(capsys, "accept", "distill")
    replaced(clone / LOSSES, "import torch\n", "import torch  # a comment\n")
    with (clone / LOSSES).open("a") as file:
        file.write("\n\ndef unused() -> None:\n    pass\n")
    assert to_run(clone) == {"distill@sd-tiny"}
    before = notes(clone)
    printed = said(capsys, "accept", "distill@sd-tiny")
    assert "accepted in dvc.lock: distill@sd-tiny" in printed
    assert to_run(clone) == set()
    after = notes(clone)
    assert before.keys() == after.keys() and all(before[name]["code"] != after[name]["code"] for name in before)
    assert not run(clone, "git", "worktree", "list").splitlines()[1:]
    said(capsys, "accept", "distill")
    assert notes(clone) == after


@pytest.mark.graph
def test_a_changed_loss_is_refused_with_its_figure(clone):
    replaced(
        clone / LOSSES,
        "total = total + weight_at(weights.output_weight",
        "total = total + 1.01 * weight_at(weights.output_weight",
    )
    lock, before = (clone / "dvc.lock").read_text(), notes(clone)
    lines: list[str] = []
    assert not accept(["distill"], clone, lines.append)
    assert any(line.startswith("distill, toy sd: metrics.jsonl step 0 heldout/loss: ") for line in lines), lines
    assert (clone / "dvc.lock").read_text() == lock and notes(clone) == before
    assert to_run(clone) == {"distill@sd-tiny"}


@pytest.mark.graph
def test_changed_parameters_and_unknown_code_are_refused(clone):
    replaced(clone / LOSSES, "import torch\n", "import torch  # a comment\n")
    replaced(clone / "params.yaml", "  steps: 2", "  steps: 3")
    lines: list[str] = []
    # The result is of other parameters; the state in work/, from which more steps go on, is accepted by itself.
    assert accept(["distill"], clone, lines.append)
    assert any("distill@sd-tiny" in line and "distill.steps: 2 → 3" in line for line in lines), lines
    assert any("work/distill" in line and line.endswith("accepted") for line in lines), lines
    run(clone, "git", "checkout", "--orphan", "new")
    committed(clone)
    replaced(clone / LOSSES, "import torch  # a comment\n", "import torch  # another\n")
    replaced(clone / "params.yaml", "  steps: 3", "  steps: 2")
    lines.clear()
    assert not accept(["distill"], clone, lines.append)
    assert any("distill@sd-tiny: no commit" in line for line in lines), lines


@pytest.mark.graph
def test_toys_that_do_not_run_are_said(clone):
    replaced(
        clone / LOSSES, "        progress = float(", "        raise ValueError('broken')\n        progress = float("
    )
    with pytest.raises(UserError, match=r"today's code(.|\n)*broken"):
        accept(["distill"], clone)


@pytest.mark.graph
def test_a_new_key_is_accepted_at_its_default_alone(clone):
    replaced(
        clone / "src/prunella/params/distill.py",
        "    features: FeatureMode | None",
        "    added: NonNegativeFloat\n    features: FeatureMode | None",
    )
    replaced(clone / "src/prunella/defaults.yaml", "  feature_weight: 0.5", "  feature_weight: 0.5\n  added: 0.5")
    replaced(clone / "params.yaml", "distill:\n", "distill:\n  added: 0.75\n")
    assert to_run(clone) == {"distill@sd-tiny"}
    code = {"PYTHONPATH": str(clone / "src"), "DVC_ROOT": str(clone)}
    with pytest.raises(AssertionError, match=r"distill\.added.*0\.5.*0\.75"):
        run(clone, sys.executable, "-c", ACCEPT_DISTILL, **code)
    replaced(clone / "params.yaml", "added: 0.75", "added: 0.5")
    assert "accepted in dvc.lock: distill@sd-tiny" in run(clone, sys.executable, "-c", ACCEPT_DISTILL, **code)
    assert to_run(clone) == set()
