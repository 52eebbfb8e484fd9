"""Prompts to draw: the lines of a text, the rows of a table, or the captions of data that lie as a source has them.

| path | prompts |
|---|---|
| NAME.txt | a prompt a line |
| NAME.jsonl, also a source's metadata.jsonl or a manifest's pairs.jsonl | the caption's column of each line |
| NAME.parquet, or a folder of such files | the caption's column; pictures are not needed |
| a tar, or a folder of them (webdataset); a folder of pictures | their captions |
| NAME.yaml | captions of rendered scenes: a vocabulary |

A user who writes a list of prompts means every line of it, so a blank or an oversized one is an error; data that were
gathered have such rows, which are passed over.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prunella.data.filter import random_order
from prunella.data.schema import combine_chunks, match_columns, normalize_captions
from prunella.data.sources import parquet, webdataset
from prunella.data.sources.folder import Folder
from prunella.data.sources.scenes import Scenes
from prunella.data.sources.webdataset import WebDataset
from prunella.errors import UserError

MAX_PROMPT_CHARS = 2000  # characters; text encoders read some 300
NO_PROMPTS_MESSAGE = "no prompt is in it"


def sample_prompts(path: Path, samples: int, seed: int) -> list[str]:
    """At most `samples` of the prompts at `path`, drawn by seed where there are more, in their own order.

    Raises UserError where there is none, and, naming the line, for a line of a list that is no prompt.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder of prompts")
    if path.suffix in (".yaml", ".yml"):
        return _read_scene_captions(path, samples, seed)
    prompts = list(_find_reader(path)(path))
    if not prompts:
        raise UserError(f"{path}: {NO_PROMPTS_MESSAGE}")
    if len(prompts) <= samples:
        return prompts
    return [prompts[i] for i in sorted(random_order(pa.array(prompts, pa.large_string()), seed)[:samples])]


def _find_reader(path: Path) -> Callable[[Path], Iterable[str]]:
    """A reader of the prompts at `path`, by the file's name or by what the folder holds."""
    readers = {
        ".txt": _iter_text_prompts,
        ".jsonl": _iter_jsonl_prompts,
        ".parquet": _iter_parquet_captions,
        ".tar": _iter_tar_captions,
    }
    if path.is_file() and path.suffix in readers:
        return readers[path.suffix]
    if path.is_dir():
        for suffix in (".parquet", ".tar"):
            if next(path.rglob(f"*{suffix}"), None):
                return readers[suffix]
        return _iter_folder_captions
    raise UserError(
        f"{path}: prompts are read from {', '.join(readers)} or .yaml (a vocabulary of scenes), or from a folder of "
        "data"
    )


def _read_scene_captions(path: Path, samples: int, seed: int) -> list[str]:
    """The first captions of the endless series."""
    source = Scenes({"path": str(path), "seed": seed})
    prompts: list[str] = []
    for rows in source.iter_rows():
        prompts += rows["text"].to_pylist()
        if len(prompts) >= samples:
            break
    return prompts[:samples]


def _iter_text_prompts(path: Path) -> Iterator[str]:
    for number, line in enumerate(_read_utf8_lines(path), 1):
        yield _check_prompt(line, f"{path}, line {number}")


def _iter_jsonl_prompts(path: Path) -> Iterator[str]:
    for number, line in enumerate(_read_utf8_lines(path), 1):
        location = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f'{location}: no JSON; a line is as {{"prompt": "a cat"}}') from None
        names = match_columns(list(row), {}) if isinstance(row, dict) else {}
        if "text" not in names:
            raise UserError(f'{location}: has no prompt, text or caption; a line is as {{"prompt": "a cat"}}')
        yield _check_prompt(_first_caption(row[names["text"]]), location)


def _read_utf8_lines(path: Path) -> list[str]:
    """The lines, without the empty one that the last line break seems to begin."""
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n") if path.stat().st_size else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _check_prompt(value: Any, location: str) -> str:
    """One prompt of a list. Raises UserError for what is none."""
    if not isinstance(value, str):
        raise UserError(f"{location}: the prompt is no text but {value!r:.60}")
    if not (text := value.strip()):
        raise UserError(f"{location}: blank; take the line out, or write a prompt there")
    if len(text) > MAX_PROMPT_CHARS:
        raise UserError(
            f"{location}: {len(text):,} characters, more than {MAX_PROMPT_CHARS:,}; a line is to be one prompt"
        )
    return text


def _iter_parquet_captions(path: Path) -> Iterator[str]:
    for file in parquet.list_parquet_files(path, "prompts"):
        try:
            names = pq.read_schema(file).names
            column = match_columns(names, {}).get("text")
            rows = pq.read_table(file, columns=[column]) if column else None
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: no Parquet file that can be read: {str(error).splitlines()[0]}") from None
        if rows is None:
            raise UserError(f"{file}: no column is called prompt, text or caption; it has {', '.join(names)}")
        yield from _select_valid_captions(normalize_captions(combine_chunks(rows.column(0)))[0].to_pylist())


def _iter_tar_captions(path: Path) -> Iterator[str]:
    webdataset.list_tars(path)
    for rows in WebDataset({"path": str(path), "columns": {}}).iter_rows():
        yield from _select_valid_captions(rows["text"].to_pylist())


def _iter_folder_captions(path: Path) -> Iterator[str]:
    for rows in Folder({"path": str(path), "columns": {}}).iter_rows():
        yield from _select_valid_captions(rows["text"].to_pylist())


def _select_valid_captions(captions: list) -> Iterator[str]:
    """The captions of data that are prompts: of several for a picture the first."""
    for caption in map(_first_caption, captions):
        if isinstance(caption, str) and 0 < len(text := caption.strip()) <= MAX_PROMPT_CHARS:
            yield text


def _first_caption(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
