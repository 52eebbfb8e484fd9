"""What a stage depends on, compared at its end with what it was at its start.

DVC hashes parameters, code and data after a stage's command has run. What is edited in the meantime would be recorded
as the origin of a result that it is not, so a stage whose inputs changed must fail: a failed stage is not recorded.
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
from prunella.storage.remote import Remote, place

PARAMS, GRAPH = Path("params.yaml"), Path("dvc.yaml")
SUMMED = (".py", ".yaml")  # code and its tables, compared by content; data by size and time, which costs no reading
LARGEST_SUMMED = 1 << 20  # bytes
NAMED = 5  # changes that a message names
Mark = str | tuple[int, int]  # sha256, or size and mtime in ns


class Entry(NamedTuple):
    """A stage as dvc.yaml has it, its templates filled in; `keys` of params.yaml, None for all of them."""

    keys: list[str] | None = None
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()  # those that DVC removes before the stage runs
    made: tuple[str, ...] = ()  # all of them


class Inputs:
    """The inputs of a stage as they are now. `address` is its name in dvc.yaml (distill@sd-tiny).

    A stage that dvc.yaml does not have is taken to depend on the whole of params.yaml and on nothing else.
    """

    def __init__(self, address: str):
        self.by_dvc = "DVC_STAGE" in os.environ
        self.address = os.environ.get("DVC_STAGE", address).rpartition(":")[2]
        self.params = yaml_or_none(PARAMS)
        self.entry = declared(self.address, self.params)
        self.files = dict(_marks(self.entry.deps))

    @property
    def digest(self) -> str:
        """Stands for the values of params.yaml that the stage depends on."""
        return json_digest(repr(self._values(self.params)))

    def check(self) -> None:
        """Raises UserError naming what changed; what DVC would take for the result of the new inputs is removed."""
        now = yaml_or_none(PARAMS)
        changes = [f"{PARAMS} can no longer be read"] if now is None else []
        changes += _changes(self._values(self.params), self._values(now or self.params), " {} → {}")
        changes += _changes(self.files, dict(_marks(self.entry.deps)))
        if not changes:
            return
        if self.by_dvc:
            for out in self.entry.outs:
                _removed(Path(out))
        more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        raise UserError(
            f"{'; '.join(changes[:NAMED])}{more} while this stage ran, so its result is not recorded; run it again "
            "(what it keeps in work/ goes on once the old inputs are back)"
        )

    def _values(self, content: Any) -> dict[str, Any]:
        return _flat(content, self.entry.keys)


def declared(address: str, params: Any, graph: Path = GRAPH) -> Entry:
    """The stage of that address in dvc.yaml; an empty Entry where dvc.yaml has none or cannot be understood."""
    try:
        return entry(yaml_or_none(graph)["stages"], address, params)
    except (LookupError, TypeError, ValueError, AttributeError):
        return Entry()


def entry(stages: dict[str, Any], address: str, params: Any) -> Entry:
    """The stage of that address. Raises LookupError, TypeError and the like where that cannot be understood."""
    name, _, item = address.partition("@")
    stage = stages[name]
    known = dict(params) | dict(_item(stage, item, params))
    stage = stage.get("do", stage)
    own, others = _keys(stage.get("params", []), known)
    deps = [*_paths(stage.get("deps", []), known), *others]
    made, outs = (
        [path for kind in ("outs", "metrics", "plots") for path in _paths(stage.get(kind, []), known, removed)]
        for removed in (False, True)
    )
    return Entry(own, tuple(deps), tuple(outs), tuple(made))


def addresses(stages: dict[str, Any], params: Any) -> list[str]:
    """The addresses of all stages, as dvc.yaml has them one after the other."""
    return [
        f"{name}@{item}" if item else name
        for name, stage in stages.items()
        for item in (_items(stage, params) if {"foreach", "matrix"} & stage.keys() else [""])
    ]


def _items(stage: dict, params: dict) -> list[str]:
    if "foreach" in stage:
        return [str(each) for each in _filled(stage["foreach"], params)]
    axes = [_filled(values, params) for values in stage["matrix"].values()]
    return ["-".join(map(str, values)) for values in product(*axes)]


def _item(stage: dict, item: str, params: dict) -> Iterator[tuple[str, Any]]:
    """What `foreach` or `matrix` calls `item` and `key` in the stage `name@item`."""
    if "foreach" in stage:
        among = _filled(stage["foreach"], params)
        found = among[item] if isinstance(among, dict) else next(each for each in [*among, item] if str(each) == item)
        yield from {"key": item, "item": found}.items()
    elif "matrix" in stage:
        axes = {axis: _filled(values, params) for axis, values in stage["matrix"].items()}
        for values in product(*axes.values()):
            if "-".join(map(str, values)) == item:
                yield from {"key": item, "item": dict(zip(axes, values, strict=True))}.items()


def _filled(text: Any, known: dict) -> Any:
    """`text` with every ${a.b} replaced; alone, such a template gives the value itself."""
    if not isinstance(text, str):
        return text
    if whole := re.fullmatch(r"\$\{([^}]+)\}", text):
        return _at(known, whole[1])
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(_at(known, found[1])), text)


def _at(content: Any, dotted: str) -> Any:
    for key in dotted.strip().split("."):
        content = content[key]
    return content


def _paths(listed: list, known: dict, removed: bool = False) -> Iterator[str]:
    for each in listed:
        path, settings = next(iter(each.items())) if isinstance(each, dict) else (each, {})
        if not (removed and (settings or {}).get("persist")):
            yield str(_filled(path, known))


def _keys(listed: list, known: dict) -> tuple[list[str], list[str]]:
    """Keys of params.yaml, and other parameter files."""
    keys, files = [], []
    for each in listed:
        for file, some in each.items() if isinstance(each, dict) else [(str(PARAMS), [each])]:
            if file == str(PARAMS):
                keys += [str(_filled(key, known)) for key in some or ()]
            else:
                files.append(str(_filled(file, known)))
    return keys, files


def yaml_or_none(path: Path) -> Any:
    """The file's content; None for what cannot be read, which `read_params` reports."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _flat(content: Any, keys: list[str] | None) -> dict[str, Any]:
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
            visit(_at(content, key) if key else content, key)
        except (LookupError, TypeError):
            continue
    return rows


def _marks(paths: tuple[str, ...]) -> Iterator[tuple[str, Mark]]:
    """A mark for every file of `paths`, files and folders as DVC sees them; on a store by its own sums (ETag)."""
    for path in paths:
        if isinstance(far := place(path), Remote):
            yield from far.marks().items()
            continue
        if not os.path.isdir(path):
            yield from _mark(path, True)
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in names:
                if not name.endswith(".pyc"):
                    yield from _mark(os.path.join(folder, name), name.endswith(SUMMED) or name == "manifest.json")


def _mark(path: str, summed: bool) -> Iterator[tuple[str, Mark]]:
    try:
        about = os.stat(path)
        small = summed and about.st_size <= LARGEST_SUMMED
        yield path, sha256(Path(path)) if small else (about.st_size, about.st_mtime_ns)
    except OSError:
        return


def _changes(before: dict, after: dict, values: str = "") -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"{name} was removed"
        elif name not in before:
            yield f"{name} was added"
        elif before[name] != after[name]:
            yield f"{name} changed{values.format(before[name], after[name])}"


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
