"""Let results stand after a change of code that changes none: the toys say whether it does."""

import ast
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunella.compute.resume import DONE, IDENTITY, code_digest, locked, noted_runs, work_root
from prunella.errors import UserError
from prunella.pipeline.input_guard import declared
from prunella.storage.files import atomic_write_text
from prunella.verify.compare import differences
from prunella.verify.dvc_lock import (
    Locked,
    Status,
    addresses,
    changed_params,
    current_params,
    dvc,
    flat,
    read_lock,
    stage_keys,
    statuses,
)
from prunella.verify.git_history import PACKAGE, History, checkout
from prunella.verify.trial import Outcome, tree, try_out


class Resumable(NamedTuple):
    """A stage that keeps states in work/: the module whose ROOMS decide its result, and its folders' names."""

    module: str
    folders: str


RESUMABLE = {
    "filter": Resumable("data/image_checks.py", "filter"),
    "encode": Resumable("encoding/encode.py", "encode"),
    "distill": Resumable("training/trainer.py", "distill"),
    "finetune": Resumable("training/trainer.py", "finetune"),
    "draw_teacher": Resumable("sampling/benchmark_images.py", "draw-teacher"),
    "draw": Resumable("sampling/benchmark_images.py", "draw-*-*"),
}
NAMED = 6  # differences of a toy that are named


@dataclass
class Claim:
    """What one commit has made: stages of dvc.lock, and folders in work/ by stage."""

    stages: list[str] = field(default_factory=list)
    folders: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The stages to try, without students."""
        return list(dict.fromkeys([*(address.partition("@")[0] for address in self.stages), *self.folders]))


class Claims:
    """What of the stages `wanted` may be accepted, by commit; and what may not, with the reason."""

    def __init__(self, wanted: list[str], root: Path):
        self.root, self.history = root, History(root)
        self.by_commit: dict[str, Claim] = {}
        self.refused: dict[str, str] = {}
        self.made: dict[str, set[str]] = {}  # stage → commits that made what dvc.lock has of it
        self._add_stages(wanted)
        for stage in dict.fromkeys(address.partition("@")[0] for address in wanted):
            if stage in RESUMABLE:
                self._add_folders(stage)

    def _add_stages(self, wanted: list[str]) -> None:
        lock, params = read_lock(self.root / "dvc.lock"), current_params(self.root)
        for address, status in statuses([address for address in wanted if address in lock], self.root).items():
            noted = lock[address]
            commit = _maker(self.history, noted.code)
            if commit:
                self.made.setdefault(address.partition("@")[0], set()).add(commit)
            if others := self._other_changes(address, noted, status, params, commit):
                self.refused[address] = f"not its code alone has changed: {'; '.join(others)}"
            elif commit is None:
                self.refused[address] = f"no commit below HEAD has the code of dvc.lock ({', '.join(noted.code)})"
            else:
                self._of(commit).stages.append(address)

    def _other_changes(
        self, address: str, noted: Locked, status: Status, params: dict[str, Any], commit: str | None
    ) -> list[str]:
        """What has changed besides code since dvc.lock."""
        deps = declared(address, params, self.root / "dvc.yaml").deps
        gone = [f"{path}: no dependency any more" for path in noted.data if path not in deps]
        then = flat(_defaults(self.history, commit)) if commit else {}
        return [*status.others, *gone, *changed_params(noted, stage_keys(address, self.root), params, then)]

    def _add_folders(self, stage: str) -> None:
        """Claim states that other code has begun: unfinished ones, and finished ones of what dvc.lock has."""
        now = _digest_now(self.root, stage)
        runs = [run for place in work_root().glob(RESUMABLE[stage].folders) for run in noted_runs(place.name)]
        for folder, noted in runs:
            if noted.code == now:
                continue
            among = [each for each in self.made.get(stage, ()) if _digest(self.history, each, stage) == noted.code]
            commit = among[0] if among else None
            if commit is None and not (folder / DONE).is_file():
                commit = _beginner(self.history, stage, noted.code)
                if commit is None:
                    self.refused[str(folder)] = "no commit below HEAD has the code that began it"
            if commit:
                self._of(commit).folders.setdefault(stage, []).append(folder)

    def _of(self, commit: str) -> Claim:
        return self.by_commit.setdefault(commit, Claim())

    @property
    def sound(self) -> bool:
        """Whether nothing was refused, but results of other parameters or data where a state goes on instead."""
        goes_on = {stage for claim in self.by_commit.values() for stage in claim.folders}
        return all(name.partition("@")[0] in goes_on for name in self.refused)


def accept(names: list[str], root: Path, say: Callable[[str], None] = print) -> bool:
    """Accept what can be accepted of the stages `names`, saying what and why not; whether nothing was refused.

    Raises UserError for a name that is no stage, and where the toys do not run.
    """
    claims = Claims(addresses(names, root), root)
    for name, why in claims.refused.items():
        say(f"{name}: {why}")
    if not claims.by_commit and claims.sound:
        say("nothing to accept: the code is as dvc.lock has it")
    return all([claims.sound, *(_tried(commit, claim, root, say) for commit, claim in claims.by_commit.items())])


def _defaults(history: History, commit: str) -> dict[str, Any]:
    try:
        return yaml.safe_load(history.text(commit, f"{PACKAGE}/defaults.yaml"))
    except UserError:
        return {}


def _maker(history: History, code: dict[str, str]) -> str | None:
    """The newest commit with these hashes of code."""
    return history.newest(lambda commit: history.gives(commit, code), list(code))


def _beginner(history: History, stage: str, digest: str) -> str | None:
    """The newest commit whose code for `stage` has this digest."""
    return history.newest(lambda commit: _digest(history, commit, stage) == digest, [PACKAGE])


def _digest_now(root: Path, stage: str) -> str:
    package = root / PACKAGE
    return code_digest(_rooms((package / RESUMABLE[stage].module).read_text(encoding="utf-8")), package)


def _digest(history: History, commit: str, stage: str) -> str | None:
    """The digest of the rooms that decide a stage's result, as `commit` has them; None where it names none."""
    try:
        return history.code_digest(commit, _rooms(history.text(commit, f"{PACKAGE}/{RESUMABLE[stage].module}")))
    except UserError:
        return None


def _rooms(module: str) -> tuple[str, ...]:
    """The constant ROOMS of a module's text. Raises UserError where there is none."""
    for node in ast.parse(module).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "ROOMS" for to in node.targets):
            return tuple(ast.literal_eval(node.value))
    raise UserError("the module names no ROOMS")


def _tried(commit: str, claim: Claim, root: Path, say: Callable[[str], None]) -> bool:
    """Try the stages of a claim on the toys; accept those whose results are equal."""
    with (
        tempfile.TemporaryDirectory(prefix="prunella-accept-") as folder,
        checkout(root, commit, Path(folder) / "tree") as then,
    ):
        say(f"comparing the code of {commit[:8]} with today's on toys: {', '.join(claim.names)}")
        old, new = tree(then), tree(root)
        before = _everything(root)
        outcomes = try_out(claim.names, old, new, Path(folder))
        if _everything(root) != before:
            raise UserError("code changed while the toys ran, so they say nothing of it; run `prunella accept` again")
        unequal: dict[str, list[str]] = {}
        for outcome in outcomes:
            outs = dict.fromkeys([*outcome.outs(old), *outcome.outs(new)])
            if found := differences(outcome.old, outcome.new, list(outs)):
                unequal.setdefault(outcome.stage, []).extend(_said(outcome, found))
    for line in (line for lines in unequal.values() for line in lines):
        say(line)
    for stage in unequal:
        say(f"{stage}: not accepted, since the code changes what it gives; `dvc repro` runs it again")
    _accept(claim, set(unequal), root, say)
    return not unequal


def _everything(root: Path) -> str:
    """A digest of all code."""
    return code_digest(("src", "stages", "dvc.yaml"), root)


def _said(outcome: Outcome, found: list[str]) -> Iterator[str]:
    for line in found[:NAMED]:
        yield f"{outcome.stage}, toy {outcome.toy}: {line}"
    if len(found) > NAMED:
        yield f"{outcome.stage}, toy {outcome.toy}: and {len(found) - NAMED} more"


def _accept(claim: Claim, unequal: set[str], root: Path, say: Callable[[str], None]) -> None:
    stages = [address for address in claim.stages if address.partition("@")[0] not in unequal]
    if stages:
        dvc(root, "commit", "--force", *stages)
        say(f"accepted in dvc.lock: {', '.join(stages)}")
    for stage, folders in claim.folders.items():
        if stage in unequal:
            continue
        digest = _digest_now(root, stage)
        for folder in folders:
            say(f"{folder}: {'accepted' if _renote(folder, digest) else 'another process has it; not accepted'}")


def _renote(folder: Path, digest: str) -> bool:
    """Note that the code of `digest` may go on with a run; False where another process has it."""
    with locked(folder, wait=False) as ours:
        if ours:
            path = folder / IDENTITY
            noted = json.loads(path.read_text(encoding="utf-8"))
            atomic_write_text(path, json.dumps(noted | {"code": digest}, indent=1))
        return ours
