"""Where a training keeps what it needs to resume: a folder of its own per parameters and inputs.

`$DVC_ROOT/work/<stage>/<fingerprint>` is no out of the graph, because DVC deletes outs before a stage runs, and
holds for one fingerprint of parameters and inputs only, so that changed ones never continue a stale run. The code that
began it is noted inside: other code goes on with it only when told to, since that may be weeks of work. One run at a
time has it, since two experiments may well ask for the same training at once: the second waits, and finds it done.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunella.errors import UserError
from prunella.files import atomic_write_text, json_digest, sha256

ACCEPT = "PRUNELLA_ACCEPT_CODE"
CODE = "code.json"
DONE = "done.json"  # in the folder of a finished run: its report


@contextmanager
def resume_dir(
    stage: str, params: dict, inputs: list[Path], first: bool = True, begun: str = "step-*.pt"
) -> Iterator[Path]:
    """The resume folder of `stage`, ours inside. `inputs` are files or folders whose content matters.

    A finished run's folder stays until the next run of the stage, since DVC may yet be killed while it stores what the
    run gave, and would then ask for it again. Of several processes the `first` alone claims it. A run has `begun` when
    there is such a file. Raises UserError, naming the modules, when other code has begun what is there and
    PRUNELLA_ACCEPT_CODE is not 1.
    """
    known = {"params": params, "inputs": [_content(path) for path in inputs]}
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "work" / stage / json_digest(known)
    if not first:
        yield folder
        return
    with _locked(folder, wait=True):
        _sweep(folder)
        _same_code(folder, begun)
        yield folder


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
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


def _sweep(folder: Path) -> None:
    """Remove what other finished runs of the stage have left."""
    for finished in folder.parent.glob(f"*/{DONE}"):
        if finished.parent != folder:
            with _locked(finished.parent, wait=False) as ours:
                if ours:
                    shutil.rmtree(finished.parent, ignore_errors=True)


def _same_code(folder: Path, begun: str) -> None:
    noted, code = folder / CODE, _code()
    before = json.loads(noted.read_text()) if noted.is_file() and any(folder.glob(begun)) else code
    # A module that came or went shows in the modules that import it.
    changed = sorted(name for name in before.keys() & code.keys() if before[name] != code[name])
    if changed and (folder / DONE).is_file():
        shutil.rmtree(folder)  # nothing is unfinished there: other code means another run
    elif changed and os.environ.get(ACCEPT) != "1":
        raise UserError(
            f"{folder} holds an unfinished run of the same parameters and inputs, begun by other code: "
            f"{', '.join(changed)} changed since. {ACCEPT}=1 goes on with it; without that folder a new run begins"
        )
    atomic_write_text(noted, json.dumps(code, indent=1))


def _content(path: Path) -> list:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.relative_to(path).as_posix(), sha256(file)] for file in files if file.is_file()]


def _code() -> dict[str, str]:
    """Sums of every module of ours that is loaded, which is what the stage imports."""
    loaded = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "prunella"}
    return {name: sha256(Path(file)) for name, file in sorted(loaded.items()) if file}
