"""Folder that a stage resumes from: a folder of its own for each set of parameters and inputs.

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
from prunella.params import load_shipped_defaults
from prunella.params.renames import folder_section, rename_keys
from prunella.storage.files import atomic_write_text, json_digest, sha256

PACKAGE_DIR = Path(__file__).parents[1]
CODE_SUFFIXES = (".py", ".yaml")
IDENTITY_FILE = "identity.json"
DONE_FILE = "done.json"  # in the folder of a finished run: its report


class Identity(NamedTuple):
    """The origin of a result: parameters, (name, sha256) of each input's files, digest of the code."""

    params: dict[str, Any]
    inputs: list
    code: str


def compute_identity(params: dict[str, Any], inputs: list[Path], code_deps: tuple[str, ...]) -> Identity:
    """`inputs` are files or folders whose content matters; `code_deps` are files or folders of the package."""
    json_params, files = json.loads(
        json.dumps([params, [_hash_files(path) for path in inputs]])
    )  # as they are read back
    return Identity(json_params, files, digest_code(code_deps))


def digest_code(code_deps: tuple[str, ...], package_dir: Path = PACKAGE_DIR) -> str:
    """A digest of the Python and YAML files of `code_deps`, by their names inside the package."""
    files = [file for code_path in code_deps for file in _list_code_files(package_dir / code_path)]
    return digest_of_hashes({file.relative_to(package_dir).as_posix(): sha256(file) for file in files})


def digest_of_hashes(hashes: dict[str, str]) -> str:
    """A digest of files, given as name → sha256."""
    lines = [f"{name} {digest}\n" for name, digest in sorted(hashes.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _list_code_files(code_path: Path) -> list[Path]:
    return (
        [code_path]
        if code_path.is_file()
        else [path for path in code_path.rglob("*") if path.name.endswith(CODE_SUFFIXES)]
    )


def work_root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or ".") / "work"


@contextmanager
def open_run_dir(
    stage: str, run_identity: Identity, *, is_main_process: bool = True, started_glob: str = "step-*.pt"
) -> Iterator[Path]:
    """The folder of `stage` for an identity, to ourselves inside.

    A finished run's folder stays, since DVC may be killed while it stores what the run gave and would ask for it
    again, and since a longer training goes on from it. Among several processes, the main process alone takes the
    lock. A run has `started_glob` when there is such a file. Raises UserError where other code began an unfinished run.
    """
    folder = _find_run_dir(stage, run_identity)
    if not is_main_process:
        yield folder
        return
    with lock_run_dir(folder, wait=True):
        _check_run_code(stage, folder, run_identity, started_glob)
        atomic_write_text(folder / IDENTITY_FILE, json.dumps(run_identity._asdict(), indent=1))
        yield folder


def _find_run_dir(stage: str, run_identity: Identity) -> Path:
    """The folder that is ours already, also where a key was not known yet when it began; else a new one."""
    runs = dict(list_runs(stage))
    for folder, existing in runs.items():
        if existing.inputs == run_identity.inputs and params_match(stage, existing.params, run_identity.params):
            return folder
    # A run that took a new key's default keeps the folder of its old name.
    names = (work_root() / stage / json_digest([run_identity.params, run_identity.inputs, n]) for n in count())
    return next(folder for folder in names if folder not in runs)


def params_match(stage: str, stored: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether parameters agree; a key that a newer version has added counts in `stored` as the shipped default.

    Old keys in `stored` are taken by their new names.
    """
    stored = rename_keys(stored, folder_section(stage))
    defaults = load_shipped_defaults().get(stage, {})
    new_keys = {name: defaults[name] for name in current if name not in stored and name in defaults}
    return stored | new_keys == current


def list_runs(stage: str) -> Iterator[tuple[Path, Identity]]:
    """The folders of a stage's runs with their identities; one whose note is damaged is passed over with a warning."""
    for path in sorted((work_root() / stage).glob(f"*/{IDENTITY_FILE}")):
        try:
            yield path.parent, Identity(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            warnings.warn(f"{path}: damaged, so what is beside it is not gone on with", stacklevel=2)


@contextmanager
def lock_run_dir(folder: Path, *, wait: bool) -> Iterator[bool]:
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


def _check_run_code(stage: str, folder: Path, run_identity: Identity, started_glob: str) -> None:
    existing = dict(list_runs(stage)).get(folder)
    if existing is None:
        if any(folder.glob(started_glob)):
            shutil.rmtree(folder)  # its note is damaged: nobody knows what it is of
        return
    if existing.code == run_identity.code or not any(folder.glob(started_glob)):
        return
    if (folder / DONE_FILE).is_file():
        shutil.rmtree(folder)  # nothing is unfinished there: other code means another run
        return
    raise UserError(
        f"{folder} holds an unfinished run of the same parameters and inputs, begun by other code; "
        f"`prunella accept {stage}` lets it go on where the code gives the same results, "
        "and without that folder a new run begins"
    )


def remove_finished_runs(stage: str, retained_dir: Path) -> None:
    """Remove the finished runs of a stage but `retained_dir`, where nobody has them."""
    for done_file in sorted((work_root() / stage).glob(f"*/{DONE_FILE}")):
        if done_file.parent != retained_dir:
            remove_run_dir(done_file.parent)


def remove_run_dir(folder: Path) -> bool:
    """Remove a run's folder; False where another process has it."""
    with lock_run_dir(folder, wait=False) as is_locked:
        if is_locked:
            shutil.rmtree(folder, ignore_errors=True)
    return is_locked


def dir_size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _hash_files(path: Path) -> list:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.relative_to(path).as_posix(), sha256(file)] for file in files if file.is_file()]
