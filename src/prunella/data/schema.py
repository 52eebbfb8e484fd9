"""Columns of a table of pairs: their usual spellings, and captions and scores of every type brought to one.

Every source gives its rows as Arrow tables with the columns named in SPELLINGS, as far as the data have them, and
"key", which finds the picture. "fault" says in a few words why a row can be no pair. A caption ("text") is a string, or
a list of strings where a picture has several, without white space around it; where the data have captions as a
dictionary, so has the table, since a caption that a million rows share must not be stored a million times. The schema's
metadata hold the data's own column names.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPELLINGS = {
    "text": ("text", "caption", "captions", "prompt", "txt", "description"),
    "width": ("width", "image_width", "original_width"),
    "height": ("height", "image_height", "original_height"),
    "language": ("language", "lang"),
    "aesthetic": ("aesthetic", "aesthetic_score", "aesthetics_score", "aesthetics"),
    "punsafe": ("punsafe", "unsafe"),
    "pwatermark": ("pwatermark", "watermark"),
    "similarity": ("similarity", "clip_similarity", "clip_score"),
    "image": ("image", "jpg", "png", "webp", "img", "image_bytes", "bytes", "file_name", "image_path", "path"),
    "url": ("url", "image_url"),
}
NUMBERS = ("width", "height", "aesthetic", "punsafe", "pwatermark", "similarity")
WANTED = ("text", "language", *NUMBERS)  # what criteria look at
NO_UTF8, NO_TEXT, NAME_NO_UTF8 = "caption not UTF-8", "caption is no text", "file name not UTF-8"
MOST_CAPTIONS = 1000  # of a picture; more are no captions
TOO_MANY = "too many captions"
LONGEST_CODE = 64  # bytes of a language's code; more is none
AROUND = " \t\r\n\v\f\ufeff"  # taken from a caption's ends
TEXT = pa.large_string()  # of a hundred thousand captions of 10 MB the small one's offsets overflow
TEXTS = pa.list_(TEXT)


def found(names: list[str], asked: dict[str, str]) -> dict[str, str]:
    """{our name: the data's} of the columns that exist; `asked` names some that are spelt otherwise.

    Case is ignored, and the first spelling in SPELLINGS wins. An asked column that does not exist is not replaced by
    another.
    """
    lower = {name.lower(): name for name in reversed(names)}
    chosen = {ours: next((lower[name] for name in known if name in lower), None) for ours, known in SPELLINGS.items()}
    chosen |= {ours: name if name in names else None for ours, name in asked.items()}
    return {ours: name for ours, name in chosen.items() if name}


def canonical(raw: pa.Table, names: dict[str, str], keys: pa.Array, there: list[str]) -> pa.Table:
    """The `WANTED` columns of an Arrow table under our names, each of one type, beside `keys` and "fault".

    What is not a number becomes null. `there` are the data's own column names.
    """
    nothing = pa.nulls(len(raw), pa.string())
    text, faults = pa.nulls(len(raw), TEXT), nothing
    if "text" in names:
        text, faults = as_captions(whole(raw.column(names["text"])))
    columns = {"key": keys.cast(TEXT), "text": text}
    for name in ("language", *NUMBERS):
        if name in names:
            columns[name] = _cast(whole(raw.column(names[name])), TEXT if name == "language" else pa.float64())
    return _noted(pa.table({**columns, "fault": faults}), there)


def of_rows(keys: list[str], rows: list[dict], names: dict[str, str], captions: list | None = None) -> pa.Table:
    """The same for rows that are dictionaries; `captions` where the rows do not hold them."""
    captions = [row.get(names.get("text")) for row in rows] if captions is None else captions
    spoken = [_spoken(caption) for caption in captions]
    several = any(isinstance(text, list) for text, _ in spoken)
    texts = [text if isinstance(text, list) else [text] if text else [] for text, _ in spoken] if several else None
    columns = {
        "key": pa.array([shown(key) for key in keys], TEXT),
        "text": pa.array(texts if several else [text for text, _ in spoken], TEXTS if several else TEXT),
    }
    for name in ("language", *NUMBERS):
        if name in names:
            kind = TEXT if name == "language" else pa.float64()
            columns[name] = pa.array([_made(row.get(names[name]), kind) for row in rows], kind)
    faults = [NAME_NO_UTF8 if shown(key) != key else fault for key, (_, fault) in zip(keys, spoken, strict=True)]
    there = list(dict.fromkeys(str(name) for row in rows for name in row))
    return _noted(pa.table({**columns, "fault": pa.array(faults, pa.string())}), there)


def faulty(keys: list[str], cause: str) -> pa.Table:
    """Rows that can be no pairs, all for one cause."""
    columns = {"key": pa.array(map(shown, keys), TEXT), "text": pa.nulls(len(keys), TEXT)}
    return pa.table({**columns, "fault": pa.array([cause] * len(keys), pa.string())})


def there(rows: pa.Table) -> list[str]:
    """The data's own names of columns."""
    return json.loads((rows.schema.metadata or {}).get(b"columns", b"[]"))


def shown(name: str) -> str:
    """A name as UTF-8 can hold it."""
    return name.encode(errors="backslashreplace").decode()


def _noted(rows: pa.Table, names: list[str]) -> pa.Table:
    return rows.replace_schema_metadata({"columns": json.dumps(names)})


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    piece = column.combine_chunks()
    if isinstance(piece, pa.ChunkedArray):  # of an empty table, or too large for one
        piece = pa.concat_arrays(piece.chunks) if piece.num_chunks else pa.nulls(0, column.type)
    return piece


def is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def caption_bytes(column: pa.Array) -> np.ndarray:
    """Bytes of each row's captions once they are written out; 0 of what is no list of captions."""
    if not is_list(column.type):
        return np.zeros(len(column), np.int64)
    entries = column.flatten()
    lengths = _lengths(entries)
    return np.bincount(pc.list_parent_indices(column), weights=lengths, minlength=len(column)).astype(np.int64)


def _lengths(entries: pa.Array) -> np.ndarray:
    """Bytes of each entry."""
    if pa.types.is_dictionary(entries.type):
        known = np.append(_lengths(entries.dictionary), 0)
        return known[np.asarray(pc.fill_null(entries.indices, len(known) - 1))]
    if not _is_text(entries.type):
        return np.zeros(len(entries))
    return np.asarray(pc.fill_null(pc.binary_length(entries.cast(pa.large_binary())), 0))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in (*tests, types.is_binary_view, types.is_fixed_size_binary))


def _cast(column: pa.Array, to: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(column.type):  # cast before its entries are multiplied
        return _cast(column.dictionary, to).take(column.indices)
    if pa.types.is_nested(column.type):
        return pa.nulls(len(column), to)
    try:
        made = column.cast(to)
    except pa.ArrowException:
        made = pa.array([_made(value, to) for value in column.to_pylist()], to)
    if to == TEXT:
        made = pc.if_else(pc.greater(pc.binary_length(made), LONGEST_CODE), pa.scalar(None, TEXT), made)
    return made


def _made(value: Any, to: pa.DataType) -> str | float | None:
    try:
        return float(value) if pa.types.is_floating(to) else shown(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def as_captions(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Captions as strings, as a dictionary of strings or as lists of strings, and faults."""
    if pa.types.is_dictionary(column.type):
        texts, faults = as_captions(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, texts), faults.take(column.indices)
    if is_list(column.type):
        few = np.asarray(pc.fill_null(pc.list_value_length(column), 0)) <= MOST_CAPTIONS
        spoken = [_spoken(row.as_py()) if fits else ([], TOO_MANY) for row, fits in zip(column, few, strict=True)]
        texts = [text if isinstance(text, list) else [] for text, _ in spoken]
        return pa.array(texts, TEXTS), pa.array([fault for _, fault in spoken], pa.string())
    nothing = pa.nulls(len(column), pa.string())
    if not _is_text(column.type):
        no_text = pc.if_else(column.is_valid(), NO_TEXT, pa.scalar(None, pa.string()))
        return pa.nulls(len(column), TEXT), no_text
    try:
        text = column.cast(pa.large_binary()).cast(TEXT)  # which looks at every byte
        return pc.utf8_trim(text, characters=AROUND), nothing
    except pa.ArrowInvalid:  # bytes that are no text
        spoken = [_spoken(value) for value in column.to_pylist()]
        texts = pa.array([text if isinstance(text, str) else None for text, _ in spoken], TEXT)
        return texts, pa.array([fault for _, fault in spoken], pa.string())


def _spoken(value: Any) -> tuple[str | list[str] | None, str | None]:
    """A caption, or several, and why there is none."""
    if isinstance(value, list):
        each = [_spoken(one) for one in value if not isinstance(one, list)]
        texts = [text for text, _ in each if isinstance(text, str) and text]
        return texts, None if texts else next((fault for _, fault in each if fault), None)
    if value is None:
        return None, None
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            return None, NO_TEXT
        text.encode()  # a lone half of a surrogate pair is none
    except UnicodeError:
        return None, NO_UTF8
    return text.strip(AROUND), None
