"""Where a training keeps what it needs to resume: a folder of its own per parameters, inputs and code.

`$DVC_ROOT/work/<stage>/<fingerprint>` is no out of the graph, because DVC deletes outs before a stage runs, and
holds for one fingerprint only, so that changed parameters never continue a stale run.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from prunella.weights import sha256


def work_folder(stage: str, params: dict, inputs: list[Path]) -> Path:
    """The resume folder of `stage`. `inputs` are files or folders whose content matters."""
    known = {"params": params, "inputs": [_content(path) for path in inputs], "code": _code()}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return Path(os.environ.get("DVC_ROOT", ".")) / "work" / stage / digest


def _content(path: Path) -> list:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.relative_to(path).as_posix(), sha256(file)] for file in files if file.is_file()]


def _code() -> list:
    """Sums of every module of ours that is loaded, which is what the stage imports."""
    loaded = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "prunella"}
    return [[name, sha256(Path(file))] for name, file in sorted(loaded.items()) if file]
