"""Let results stand after a change of code that changes none: the toys say whether it does."""

import ast
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunella.compute.resume import DONE_FILE, IDENTITY_FILE, digest_code, list_runs, lock_run_dir, work_root
from prunella.errors import UserError
from prunella.params.renames import CONSTANTS, MODULES, rename_keys
from prunella.pipeline.input_guard import read_stage_spec
from prunella.storage.files import atomic_write_text
from prunella.verify.compare import find_differences
from prunella.verify.dvc_lock import (
    LockedStage,
    StageStatus,
    expand_stage_names,
    find_param_changes,
    flatten_nested,
    query_dvc_status,
    read_current_params,
    read_dvc_lock,
    read_stage_keys,
    run_dvc,
)
from prunella.verify.git_history import PACKAGE_DIR, GitHistory, checkout
from prunella.verify.trial import ToyResult, load_code_version, run_toys


class ResumableStage(NamedTuple):
    """A stage that keeps states in work/: the module whose CODE_DEPS decide its result, and its folders' names."""

    module: str
    folders: str


RESUMABLE_STAGES = {
    "filter": ResumableStage("data/image_checks.py", "filter"),
    "encode": ResumableStage("encoding/encode.py", "encode"),
    "distill": ResumableStage("training/trainer.py", "distill"),
    "finetune": ResumableStage("training/trainer.py", "finetune"),
    "draw_teacher": ResumableStage("sampling/benchmark_images.py", "draw-teacher"),
    "draw": ResumableStage("sampling/benchmark_images.py", "draw-*-*"),
}
MAX_LISTED_DIFFERENCES = 6  # differences of a toy that are named


@dataclass
class CommitCandidate:
    """The results of one commit: stages of dvc.lock, and folders in work/ by stage."""

    stages: list[str] = field(default_factory=list)
    folders: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def stage_names(self) -> list[str]:
        """The stages to try, without students."""
        return list(dict.fromkeys([*(address.partition("@")[0] for address in self.stages), *self.folders]))


class CommitCandidates:
    """The acceptable results of the stages `wanted`, by commit; and what may not, with the reason."""

    def __init__(self, requested: list[str], root: Path):
        self.root, self.history = root, GitHistory(root)
        self.by_commit: dict[str, CommitCandidate] = {}
        self.refused: dict[str, str] = {}
        self.producing_commits: dict[str, set[str]] = {}  # stage → commits that made what dvc.lock has of it
        self._add_stages(requested)
        for stage in dict.fromkeys(address.partition("@")[0] for address in requested):
            if stage in RESUMABLE_STAGES:
                self._add_folders(stage)

    def _add_stages(self, requested: list[str]) -> None:
        lock, params = read_dvc_lock(self.root / "dvc.lock"), read_current_params(self.root)
        for address, status in query_dvc_status(
            [address for address in requested if address in lock], self.root
        ).items():
            locked_stage = lock[address]
            commit = _find_commit_with_code(self.history, locked_stage.code)
            if commit:
                self.producing_commits.setdefault(address.partition("@")[0], set()).add(commit)
            if other_changes := self._other_changes(address, locked_stage, status, params, commit):
                self.refused[address] = f"not its code alone has changed: {'; '.join(other_changes)}"
            elif commit is None:
                self.refused[address] = (
                    f"no commit below HEAD has the code of dvc.lock ({', '.join(locked_stage.code)})"
                )
            else:
                self._candidate_of(commit).stages.append(address)

    def _other_changes(
        self, address: str, locked_stage: LockedStage, status: StageStatus, params: dict[str, Any], commit: str | None
    ) -> list[str]:
        """Changes besides code since dvc.lock."""
        deps = read_stage_spec(address, params, self.root / "dvc.yaml").deps
        removed_deps = [f"{path}: no dependency any more" for path in locked_stage.data if path not in deps]
        old_defaults = flatten_nested(rename_keys(_read_defaults(self.history, commit))) if commit else {}
        return [
            *status.other_changes,
            *removed_deps,
            *find_param_changes(locked_stage, read_stage_keys(address, self.root), params, old_defaults),
        ]

    def _add_folders(self, stage: str) -> None:
        """Claim states that other code has begun: unfinished ones, and finished ones of what dvc.lock has."""
        current_digest = _digest_working_tree(self.root, stage)
        runs = [
            run for work_dir in work_root().glob(RESUMABLE_STAGES[stage].folders) for run in list_runs(work_dir.name)
        ]
        for folder, identity in runs:
            if identity.code == current_digest:
                continue
            matching_commits = [
                candidate_commit
                for candidate_commit in self.producing_commits.get(stage, ())
                if _digest_at_commit(self.history, candidate_commit, stage) == identity.code
            ]
            commit = matching_commits[0] if matching_commits else None
            if commit is None and not (folder / DONE_FILE).is_file():
                commit = _find_commit_with_digest(self.history, stage, identity.code)
                if commit is None:
                    self.refused[str(folder)] = "no commit below HEAD has the code that began it"
            if commit:
                self._candidate_of(commit).folders.setdefault(stage, []).append(folder)

    def _candidate_of(self, commit: str) -> CommitCandidate:
        return self.by_commit.setdefault(commit, CommitCandidate())

    @property
    def is_acceptable(self) -> bool:
        """Whether nothing was refused, but results of other parameters or data where a state goes on instead."""
        resumable = {stage for candidate in self.by_commit.values() for stage in candidate.folders}
        return all(name.partition("@")[0] in resumable for name in self.refused)


def accept(names: list[str], root: Path, print_line: Callable[[str], None] = print) -> bool:
    """Accept what can be accepted of the stages `names`, saying what and why not; whether nothing was refused.

    Raises UserError for a name that is no stage, and where the toys do not run.
    """
    candidates = CommitCandidates(expand_stage_names(names, root), root)
    for name, reason in candidates.refused.items():
        print_line(f"{name}: {reason}")
    if not candidates.by_commit and candidates.is_acceptable:
        print_line("nothing to accept: the code is as dvc.lock has it")
    return all(
        [
            candidates.is_acceptable,
            *(
                _compare_on_toys(commit, candidate, root, print_line)
                for commit, candidate in candidates.by_commit.items()
            ),
        ]
    )


def _read_defaults(history: GitHistory, commit: str) -> dict[str, Any]:
    try:
        return yaml.safe_load(history.read_text(commit, f"{PACKAGE_DIR}/defaults.yaml"))
    except UserError:
        return {}


def _find_commit_with_code(history: GitHistory, code: dict[str, str]) -> str | None:
    """The newest commit with these hashes of code."""
    return history.find_newest(lambda commit: history.has_hashes(commit, code), list(code))


def _find_commit_with_digest(history: GitHistory, stage: str, digest: str) -> str | None:
    """The newest commit whose code for `stage` has this digest."""
    return history.find_newest(lambda commit: _digest_at_commit(history, commit, stage) == digest, [PACKAGE_DIR])


def _digest_working_tree(root: Path, stage: str) -> str:
    package = root / PACKAGE_DIR
    return digest_code(
        _parse_code_deps((package / RESUMABLE_STAGES[stage].module).read_text(encoding="utf-8")), package
    )


def _digest_at_commit(history: GitHistory, commit: str, stage: str) -> str | None:
    """The digest of the rooms that decide a stage's result, as `commit` has them; None where it names none."""
    try:
        return history.digest_code_at(
            commit, _parse_code_deps(_module_text(history, commit, RESUMABLE_STAGES[stage].module))
        )
    except UserError:
        return None


def _module_text(history: GitHistory, commit: str, module: str) -> str:
    """A module as `commit` has it, under its name of today or its old one. Raises UserError where it has neither."""
    try:
        return history.read_text(commit, f"{PACKAGE_DIR}/{module}")
    except UserError:
        return history.read_text(commit, f"{PACKAGE_DIR}/{MODULES.get(module, module)}")


def _parse_code_deps(module: str) -> tuple[str, ...]:
    """The constant CODE_DEPS of a module's text, also under its old name. Raises UserError where there is none."""
    names = {"CODE_DEPS", CONSTANTS["CODE_DEPS"]}
    for node in ast.parse(module).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id in names for target in node.targets
        ):
            return tuple(ast.literal_eval(node.value))
    raise UserError("the module names no CODE_DEPS")


def _compare_on_toys(commit: str, candidate: CommitCandidate, root: Path, print_line: Callable[[str], None]) -> bool:
    """Try the stages of a claim on the toys; accept those whose results are equal."""
    with (
        tempfile.TemporaryDirectory(prefix="prunella-accept-") as folder,
        checkout(root, commit, Path(folder) / "tree") as old_root,
    ):
        print_line(f"comparing the code of {commit[:8]} with today's on toys: {', '.join(candidate.stage_names)}")
        old, new = load_code_version(old_root), load_code_version(root)
        digest_before = _digest_all_code(root)
        outcomes = run_toys(candidate.stage_names, old, new, Path(folder))
        if _digest_all_code(root) != digest_before:
            raise UserError("code changed while the toys ran, so they say nothing of it; run `prunella accept` again")
        unequal: dict[str, list[str]] = {}
        for outcome in outcomes:
            outs = dict.fromkeys([*outcome.list_outs(old), *outcome.list_outs(new)])
            if diffs := find_differences(outcome.old, outcome.new, list(outs)):
                unequal.setdefault(outcome.stage, []).extend(_iter_difference_lines(outcome, diffs))
    for line in (line for lines in unequal.values() for line in lines):
        print_line(line)
    for stage in unequal:
        print_line(f"{stage}: not accepted, since the code changes what it gives; `dvc repro` runs it again")
    _accept_candidate(candidate, set(unequal), root, print_line)
    return not unequal


def _digest_all_code(root: Path) -> str:
    """A digest of all code."""
    return digest_code(("src", "stages", "dvc.yaml"), root)


def _iter_difference_lines(outcome: ToyResult, diffs: list[str]) -> Iterator[str]:
    for line in diffs[:MAX_LISTED_DIFFERENCES]:
        yield f"{outcome.stage}, toy {outcome.toy}: {line}"
    if len(diffs) > MAX_LISTED_DIFFERENCES:
        yield f"{outcome.stage}, toy {outcome.toy}: and {len(diffs) - MAX_LISTED_DIFFERENCES} more"


def _accept_candidate(
    candidate: CommitCandidate, unequal: set[str], root: Path, print_line: Callable[[str], None]
) -> None:
    stages = [address for address in candidate.stages if address.partition("@")[0] not in unequal]
    if stages:
        run_dvc(root, "commit", "--force", *stages)
        print_line(f"accepted in dvc.lock: {', '.join(stages)}")
    for stage, folders in candidate.folders.items():
        if stage in unequal:
            continue
        digest = _digest_working_tree(root, stage)
        for folder in folders:
            print_line(
                f"{folder}: "
                f"{'accepted' if _update_identity(folder, digest) else 'another process has it; not accepted'}"
            )


def _update_identity(folder: Path, digest: str) -> bool:
    """Note that the code of `digest` may go on with a run; False where another process has it."""
    with lock_run_dir(folder, wait=False) as acquired:
        if acquired:
            path = folder / IDENTITY_FILE
            identity = json.loads(path.read_text(encoding="utf-8"))
            atomic_write_text(path, json.dumps(identity | {"code": digest}, indent=1))
        return acquired
