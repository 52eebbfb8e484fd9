"""Files that are whole or absent, their sums, and short names for what something was made of."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from prunella.errors import UserError
from prunella.storage.remote import PathOrRemote

MAX_YAML_VALUES = 100_000  # in a YAML file, aliases followed; a parameter file has 200


def atomic_write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it, so that whoever is killed meanwhile leaves the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = path.with_suffix(".half")
    tmp_path.write_text(text, encoding="utf-8")
    tmp_path.replace(path)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all went well, and is gone otherwise."""
    tmp_dir = out.with_name(out.name + ".half")
    shutil.rmtree(tmp_dir, ignore_errors=True)  # of one that was killed
    tmp_dir.mkdir(parents=True)
    try:
        yield tmp_dir
        shutil.rmtree(out, ignore_errors=True)
        tmp_dir.rename(out)
    finally:
        shutil.rmtree(tmp_dir, ignore_errors=True)


def link_or_copy(file: Path, to: Path) -> None:
    """The file at another place, without a second copy where the file system can."""
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)


def json_digest(value: Any) -> str:
    """16 digits that stand for something that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sha256(path: PathOrRemote) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: PathOrRemote) -> Any:
    """The content of a JSON file. Raises UserError, naming the file, where that is no JSON, else OSError."""
    return parse_json(path.read_bytes(), f"{path}: not valid JSON")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, whoever wrote it. Raises UserError, naming the file, where that is no YAML."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not valid YAML: {reason}") from None
    remaining, values = MAX_YAML_VALUES, [content]
    while values and remaining:  # an alias costs a line and may stand for thousands, or for what it is in
        value, remaining = values.pop(), remaining - 1
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not remaining:
        raise UserError(f"{path}: holds more than {MAX_YAML_VALUES} values, its aliases followed")
    return content


def parse_json(text: bytes, message: str) -> Any:
    """The content of JSON (UTF-8), whoever wrote it. Raises UserError that begins with `message`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{message}: {reason}") from None
