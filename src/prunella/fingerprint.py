"""Where a training keeps what it needs to resume: a folder of its own per parameters, inputs and code.

`$DVC_ROOT/work/<stage>/<fingerprint>` is no out of the graph, because DVC deletes outs before a stage runs, and
holds for one fingerprint of parameters and inputs only, so that changed ones never continue a stale run. The code that
began it is noted inside: other code goes on with it only when told to, since that may be weeks of work.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from prunella.errors import UserError
from prunella.weights import sha256

ACCEPT = "PRUNELLA_ACCEPT_CODE"
DONE = "done.json"  # in the folder of a finished run: its report


def work_folder(stage: str, params: dict, inputs: list[Path]) -> Path:
    """The resume folder of `stage`. `inputs` are files or folders whose content matters.

    A finished run's folder stays until the next run of the stage, since DVC may yet be killed while it stores what the
    run gave, and would then ask for it again.
    Raises UserError, naming the modules, when other code has begun what is there and PRUNELLA_ACCEPT_CODE is not 1.
    """
    known = {"params": params, "inputs": [_content(path) for path in inputs]}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "work" / stage / digest
    for finished in folder.parent.glob(f"*/{DONE}"):
        if finished.parent != folder:
            shutil.rmtree(finished.parent, ignore_errors=True)
    _same_code(folder / "code.json")
    return folder


def _same_code(noted: Path) -> None:
    code, begun = _code(), any(noted.parent.glob("step-*.pt"))
    before = json.loads(noted.read_text()) if begun and noted.is_file() else code
    # A module that came or went shows in the modules that import it.
    changed = sorted(name for name in before.keys() & code.keys() if before[name] != code[name])
    if changed and os.environ.get(ACCEPT) != "1":
        raise UserError(
            f"{noted.parent} holds an unfinished run of the same parameters and inputs, begun by other code: "
            f"{', '.join(changed)} changed since. {ACCEPT}=1 goes on with it; without that folder a new run begins"
        )
    noted.parent.mkdir(parents=True, exist_ok=True)
    half = noted.with_suffix(f".{os.getpid()}")  # of several processes each may write it
    half.write_text(json.dumps(code, indent=1))
    half.replace(noted)


def _content(path: Path) -> list:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.relative_to(path).as_posix(), sha256(file)] for file in files if file.is_file()]


def _code() -> dict[str, str]:
    """Sums of every module of ours that is loaded, which is what the stage imports."""
    loaded = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "prunella"}
    return {name: sha256(Path(file)) for name, file in sorted(loaded.items()) if file}
