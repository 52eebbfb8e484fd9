"""Where a stage keeps what it needs to resume: a folder of its own for each set of parameters and inputs.

`$DVC_ROOT/work/<stage>/<digest>` is no out of the graph, because DVC deletes outs before a stage runs. Its
`identity.json` holds the parameters and inputs that decide the result, so that changed ones never continue a stale run,
and the digest of the result rooms whose code began it. One process at a time has a folder, since two experiments may
ask for the same training at once: the second waits, and finds it done.
"""

import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.params import shipped_defaults
from prunella.storage.files import atomic_write_text, json_digest, sha256

PACKAGE = Path(__file__).parents[1]
CODE_FILES = (".py", ".yaml")
IDENTITY = "identity.json"
DONE = "done.json"  # in the folder of a finished run: its report


class Identity(NamedTuple):
    """What a result follows from: parameters, (name, sha256) of each input's files, digest of the code."""

    params: dict[str, Any]
    inputs: list
    code: str


def identity(params: dict[str, Any], inputs: list[Path], rooms: tuple[str, ...]) -> Identity:
    """`inputs` are files or folders whose content matters; `rooms` are files or folders of the package."""
    noted, files = json.loads(json.dumps([params, [_content(path) for path in inputs]]))  # as they are read back
    return Identity(noted, files, code_digest(rooms))


def code_digest(rooms: tuple[str, ...], package: Path = PACKAGE) -> str:
    """A digest of the Python and YAML files of `rooms`, by their names inside the package."""
    files = [file for room in rooms for file in _code_files(package / room)]
    return sums_digest({file.relative_to(package).as_posix(): sha256(file) for file in files})


def sums_digest(sums: dict[str, str]) -> str:
    """A digest of files, given as name → sha256."""
    lines = [f"{name} {sum}\n" for name, sum in sorted(sums.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _code_files(room: Path) -> list[Path]:
    return [room] if room.is_file() else [path for path in room.rglob("*") if path.name.endswith(CODE_FILES)]


def work_root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or ".") / "work"


@contextmanager
def resume_dir(stage: str, ours: Identity, *, first: bool = True, begun: str = "step-*.pt") -> Iterator[Path]:
    """The folder of `stage` for an identity, to ourselves inside.

    A finished run's folder stays, since DVC may be killed while it stores what the run gave and would ask for it
    again, and since a longer training goes on from it. Of several processes the `first` alone takes the lock. A run has
    `begun` when there is such a file. Raises UserError where other code began an unfinished run.
    """
    folder = _folder(stage, ours)
    if not first:
        yield folder
        return
    with locked(folder, wait=True):
        _check_code(stage, folder, ours, begun)
        atomic_write_text(folder / IDENTITY, json.dumps(ours._asdict(), indent=1))
        yield folder


def _folder(stage: str, ours: Identity) -> Path:
    """The folder that is ours already, also where a key was not known yet when it began; else a new one."""
    runs = dict(noted_runs(stage))
    for folder, noted in runs.items():
        if noted.inputs == ours.inputs and same_params(stage, noted.params, ours.params):
            return folder
    # A run that took a new key's default keeps the folder of its old name.
    names = (work_root() / stage / json_digest([ours.params, ours.inputs, n]) for n in count())
    return next(folder for folder in names if folder not in runs)


def same_params(stage: str, noted: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether parameters agree; a key that a newer version has added counts in `noted` as the shipped default."""
    defaults = shipped_defaults().get(stage, {})
    added = {name: defaults[name] for name in ours if name not in noted and name in defaults}
    return noted | added == ours


def noted_runs(stage: str) -> Iterator[tuple[Path, Identity]]:
    """The folders of a stage's runs with their identities; one whose note is damaged is passed over with a warning."""
    for path in sorted((work_root() / stage).glob(f"*/{IDENTITY}")):
        try:
            yield path.parent, Identity(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            warnings.warn(f"{path}: damaged, so what is beside it is not gone on with", stacklevel=2)


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether we have the folder to ourselves inside; with `wait` we do, sooner or later."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print(f"another run of the same training has {folder}; this one waits for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def _check_code(stage: str, folder: Path, ours: Identity, begun: str) -> None:
    noted = dict(noted_runs(stage)).get(folder)
    if noted is None:
        if any(folder.glob(begun)):
            shutil.rmtree(folder)  # its note is damaged: nobody knows what it is of
        return
    if noted.code == ours.code or not any(folder.glob(begun)):
        return
    if (folder / DONE).is_file():
        shutil.rmtree(folder)  # nothing is unfinished there: other code means another run
        return
    raise UserError(
        f"{folder} holds an unfinished run of the same parameters and inputs, begun by other code; "
        f"`prunella accept {stage}` lets it go on where the code gives the same results, "
        "and without that folder a new run begins"
    )


def sweep(stage: str, keep: Path) -> None:
    """Remove the finished runs of a stage but `keep`, where nobody has them."""
    for finished in sorted((work_root() / stage).glob(f"*/{DONE}")):
        if finished.parent != keep:
            remove(finished.parent)


def remove(folder: Path) -> bool:
    """Remove a run's folder; False where another process has it."""
    with locked(folder, wait=False) as ours:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
    return ours


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _content(path: Path) -> list:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.relative_to(path).as_posix(), sha256(file)] for file in files if file.is_file()]
