"""Inputs of a stage, compared at its end with what it was at its start.

DVC hashes parameters, code and data after a stage's command has run. A file that is edited in the meantime would be
recorded as the origin of a result that it is not, so a stage whose inputs changed must fail: a failed stage is not
recorded.
"""

import os
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunella.errors import UserError
from prunella.storage.files import json_digest, sha256
from prunella.storage.remote import RemotePath, parse_location

PARAMS_FILE, DVC_YAML_FILE = Path("params.yaml"), Path("dvc.yaml")
HASHED_SUFFIXES = (
    ".py",
    ".yaml",
)  # code and its tables, compared by content; data by size and time, which costs no reading
MAX_HASHED_BYTES = 1 << 20  # bytes
MAX_LISTED_CHANGES = 5  # changes that a message names
FileFingerprint = str | tuple[int, int]  # sha256, or size and mtime in ns


class StageSpec(NamedTuple):
    """A stage as dvc.yaml has it, its templates filled in; `keys` of params.yaml, None for all of them."""

    keys: list[str] | None = None
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()  # those that DVC removes before the stage runs
    all_outs: tuple[str, ...] = ()  # all of them


class InputGuard:
    """The inputs of a stage as they are now. `address` is its name in dvc.yaml (distill@sd-tiny).

    A stage that dvc.yaml does not have is taken to depend on the whole of params.yaml and on nothing else.
    """

    def __init__(self, address: str):
        self.under_dvc = "DVC_STAGE" in os.environ
        self.address = os.environ.get("DVC_STAGE", address).rpartition(":")[2]
        self.params = load_yaml_or_none(PARAMS_FILE)
        self.spec = read_stage_spec(self.address, self.params)
        self.fingerprints = dict(_fingerprint_paths(self.spec.deps))

    @property
    def digest(self) -> str:
        """Stands for the values of params.yaml that the stage depends on."""
        return json_digest(repr(self._select_values(self.params)))

    def check(self) -> None:
        """Raises UserError naming what changed; what DVC would take for the result of the new inputs is removed."""
        current_params = load_yaml_or_none(PARAMS_FILE)
        changes = [f"{PARAMS_FILE} can no longer be read"] if current_params is None else []
        changes += _iter_changes(
            self._select_values(self.params), self._select_values(current_params or self.params), " {} → {}"
        )
        changes += _iter_changes(self.fingerprints, dict(_fingerprint_paths(self.spec.deps)))
        if not changes:
            return
        if self.under_dvc:
            for out in self.spec.outs:
                _remove_output(Path(out))
        suffix = f" and {len(changes) - MAX_LISTED_CHANGES} more" if len(changes) > MAX_LISTED_CHANGES else ""
        raise UserError(
            f"{'; '.join(changes[:MAX_LISTED_CHANGES])}{suffix} while this stage ran, so its result is not recorded; "
            "run it again "
            "(what it keeps in work/ goes on once the old inputs are back)"
        )

    def _select_values(self, content: Any) -> dict[str, Any]:
        return _select_params(content, self.spec.keys)


def read_stage_spec(address: str, params: Any, dvc_yaml: Path = DVC_YAML_FILE) -> StageSpec:
    """The stage of that address in dvc.yaml; an empty Entry where dvc.yaml has none or cannot be understood."""
    try:
        return parse_stage_spec(load_yaml_or_none(dvc_yaml)["stages"], address, params)
    except (LookupError, TypeError, ValueError, AttributeError):
        return StageSpec()


def parse_stage_spec(stages: dict[str, Any], address: str, params: Any) -> StageSpec:
    """The stage of that address. Raises LookupError, TypeError and the like where that cannot be understood."""
    name, _, item = address.partition("@")
    stage = stages[name]
    variables = dict(params) | dict(_item_variables(stage, item, params))
    stage = stage.get("do", stage)
    param_keys, param_files = _split_param_keys(stage.get("params", []), variables)
    deps = [*_iter_paths(stage.get("deps", []), variables), *param_files]
    all_outs, outs = (
        [
            path
            for kind in ("outs", "metrics", "plots")
            for path in _iter_paths(stage.get(kind, []), variables, only_removed)
        ]
        for only_removed in (False, True)
    )
    return StageSpec(param_keys, tuple(deps), tuple(outs), tuple(all_outs))


def list_stage_addresses(stages: dict[str, Any], params: Any) -> list[str]:
    """The addresses of all stages, as dvc.yaml has them one after the other."""
    return [
        f"{name}@{item}" if item else name
        for name, stage in stages.items()
        for item in (_list_stage_items(stage, params) if {"foreach", "matrix"} & stage.keys() else [""])
    ]


def _list_stage_items(stage: dict, params: dict) -> list[str]:
    if "foreach" in stage:
        return [str(each) for each in _resolve_template(stage["foreach"], params)]
    axes = [_resolve_template(values, params) for values in stage["matrix"].values()]
    return ["-".join(map(str, values)) for values in product(*axes)]


def _item_variables(stage: dict, item: str, params: dict) -> Iterator[tuple[str, Any]]:
    """The entry that foreach or `matrix` calls `item` and `key` in the stage `name@item`."""
    if "foreach" in stage:
        items = _resolve_template(stage["foreach"], params)
        value = items[item] if isinstance(items, dict) else next(each for each in [*items, item] if str(each) == item)
        yield from {"key": item, "item": value}.items()
    elif "matrix" in stage:
        axes = {axis: _resolve_template(values, params) for axis, values in stage["matrix"].items()}
        for values in product(*axes.values()):
            if "-".join(map(str, values)) == item:
                yield from {"key": item, "item": dict(zip(axes, values, strict=True))}.items()


def _resolve_template(text: Any, variables: dict) -> Any:
    """`text` with every ${a.b} replaced; alone, such a template gives the value itself."""
    if not isinstance(text, str):
        return text
    if full_match := re.fullmatch(r"\$\{([^}]+)\}", text):
        return _get_dotted(variables, full_match[1])
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(_get_dotted(variables, match[1])), text)


def _get_dotted(content: Any, dotted: str) -> Any:
    for key in dotted.strip().split("."):
        content = content[key]
    return content


def _iter_paths(entries: list, variables: dict, only_removed: bool = False) -> Iterator[str]:
    for entry in entries:
        path, settings = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        if not (only_removed and (settings or {}).get("persist")):
            yield str(_resolve_template(path, variables))


def _split_param_keys(entries: list, variables: dict) -> tuple[list[str], list[str]]:
    """Keys of params.yaml, and other parameter files."""
    keys, files = [], []
    for entry in entries:
        for file, entry_keys in entry.items() if isinstance(entry, dict) else [(str(PARAMS_FILE), [entry])]:
            if file == str(PARAMS_FILE):
                keys += [str(_resolve_template(key, variables)) for key in entry_keys or ()]
            else:
                files.append(str(_resolve_template(file, variables)))
    return keys, files


def load_yaml_or_none(path: Path) -> Any:
    """The file's content; None for what cannot be read, which `read_params` reports."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _select_params(content: Any, keys: list[str] | None) -> dict[str, Any]:
    """{"distill.steps": 3} of the keys asked for (of a section, all of it)."""
    rows: dict[str, Any] = {}

    def visit(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                visit(inner, f"{name}.{key}" if name else str(key))
        else:
            rows[name] = value

    for key in [""] if keys is None else keys:
        try:
            visit(_get_dotted(content, key) if key else content, key)
        except (LookupError, TypeError):
            continue
    return rows


def _fingerprint_paths(paths: tuple[str, ...]) -> Iterator[tuple[str, FileFingerprint]]:
    """A mark for every file of `paths`, files and folders as DVC sees them; on a store by its own sums (ETag)."""
    for path in paths:
        if isinstance(location := parse_location(path), RemotePath):
            yield from location.etags().items()
            continue
        if not os.path.isdir(path):
            yield from _fingerprint_file(path, True)
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in names:
                if not name.endswith(".pyc"):
                    yield from _fingerprint_file(
                        os.path.join(folder, name), name.endswith(HASHED_SUFFIXES) or name == "manifest.json"
                    )


def _fingerprint_file(path: str, hash_content: bool) -> Iterator[tuple[str, FileFingerprint]]:
    try:
        stat = os.stat(path)
        is_small = hash_content and stat.st_size <= MAX_HASHED_BYTES
        yield path, sha256(Path(path)) if is_small else (stat.st_size, stat.st_mtime_ns)
    except OSError:
        return


def _iter_changes(before: dict, after: dict, values_format: str = "") -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"{name} was removed"
        elif name not in before:
            yield f"{name} was added"
        elif before[name] != after[name]:
            yield f"{name} changed{values_format.format(before[name], after[name])}"


def _remove_output(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
