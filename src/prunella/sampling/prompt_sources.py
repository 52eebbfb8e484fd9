"""Prompts to draw: the lines of a text, the rows of a table, or the captions of data that lie as a source has them.

| path | prompts |
|---|---|
| NAME.txt | a prompt a line |
| NAME.jsonl, also a source's metadata.jsonl or a manifest's pairs.jsonl | the caption's column of each line |
| NAME.parquet, or a folder of such files | the caption's column; pictures are not needed |
| a tar, or a folder of them (webdataset); a folder of pictures | their captions |
| NAME.yaml | captions of rendered scenes: a vocabulary |

Whoever writes a list of prompts means every line of it, so a blank or an oversized one is an error; data that were
gathered have such rows, which are passed over.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prunella.data.filter import random_order
from prunella.data.schema import as_captions, found, whole
from prunella.data.sources import parquet, webdataset
from prunella.data.sources.folder import Folder
from prunella.data.sources.scenes import Scenes
from prunella.data.sources.webdataset import WebDataset
from prunella.errors import UserError

LONGEST = 2000  # characters; text encoders read some 300
NO_PROMPTS = "no prompt is in it"


def read_prompts(path: Path, samples: int, seed: int) -> list[str]:
    """At most `samples` of the prompts at `path`, drawn by seed where there are more, in their own order.

    Raises UserError where there is none, and, naming the line, for a line of a list that is no prompt.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder of prompts")
    if path.suffix in (".yaml", ".yml"):
        return _scenes(path, samples, seed)
    prompts = list(_reader(path)(path))
    if not prompts:
        raise UserError(f"{path}: {NO_PROMPTS}")
    if len(prompts) <= samples:
        return prompts
    return [prompts[i] for i in sorted(random_order(pa.array(prompts, pa.large_string()), seed)[:samples])]


def _reader(path: Path) -> Callable[[Path], Iterable[str]]:
    """What reads the prompts at `path`, by the file's name or by what the folder holds."""
    known = {".txt": _lines, ".jsonl": _json_lines, ".parquet": _table, ".tar": _tars}
    if path.is_file() and path.suffix in known:
        return known[path.suffix]
    if path.is_dir():
        for kind in (".parquet", ".tar"):
            if next(path.rglob(f"*{kind}"), None):
                return known[kind]
        return _folder
    raise UserError(
        f"{path}: prompts are read from {', '.join(known)} or .yaml (a vocabulary of scenes), or from a folder of data"
    )


def _scenes(path: Path, samples: int, seed: int) -> list[str]:
    """The first captions of the endless series."""
    source = Scenes({"path": str(path), "seed": seed})
    prompts: list[str] = []
    for rows in source.rows():
        prompts += rows["text"].to_pylist()
        if len(prompts) >= samples:
            break
    return prompts[:samples]


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_decoded(path), 1):
        yield _prompt(line, f"{path}, line {number}")


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_decoded(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f'{where}: no JSON; a line is as {{"prompt": "a cat"}}') from None
        names = found(list(row), {}) if isinstance(row, dict) else {}
        if "text" not in names:
            raise UserError(f'{where}: has no prompt, text or caption; a line is as {{"prompt": "a cat"}}')
        yield _prompt(_first(row[names["text"]]), where)


def _decoded(path: Path) -> list[str]:
    """The lines, without the empty one that the last line break seems to begin."""
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n") if path.stat().st_size else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _prompt(said: Any, where: str) -> str:
    """One prompt of a list. Raises UserError for what is none."""
    if not isinstance(said, str):
        raise UserError(f"{where}: the prompt is no text but {said!r:.60}")
    if not (text := said.strip()):
        raise UserError(f"{where}: blank; take the line out, or write a prompt there")
    if len(text) > LONGEST:
        raise UserError(f"{where}: {len(text):,} characters, more than {LONGEST:,}; a line is to be one prompt")
    return text


def _table(path: Path) -> Iterator[str]:
    for file in parquet.files(path, "prompts"):
        try:
            names = pq.read_schema(file).names
            column = found(names, {}).get("text")
            rows = pq.read_table(file, columns=[column]) if column else None
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: no Parquet file that can be read: {str(error).splitlines()[0]}") from None
        if rows is None:
            raise UserError(f"{file}: no column is called prompt, text or caption; it has {', '.join(names)}")
        yield from _gathered(as_captions(whole(rows.column(0)))[0].to_pylist())


def _tars(path: Path) -> Iterator[str]:
    webdataset.files(path)
    for rows in WebDataset({"path": str(path), "columns": {}}).rows():
        yield from _gathered(rows["text"].to_pylist())


def _folder(path: Path) -> Iterator[str]:
    for rows in Folder({"path": str(path), "columns": {}}).rows():
        yield from _gathered(rows["text"].to_pylist())


def _gathered(captions: list) -> Iterator[str]:
    """The captions of data that are prompts: of several for a picture the first."""
    for said in map(_first, captions):
        if isinstance(said, str) and 0 < len(text := said.strip()) <= LONGEST:
            yield text


def _first(said: Any) -> Any:
    return said[0] if isinstance(said, list) and said else said
