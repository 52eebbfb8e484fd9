"""Columns of a table of pairs: the field's spellings of them, and captions and scores of every kind made ours.

Wherever rows come from, they come as Arrow tables of the columns named in SPELLINGS, as far as the data have them,
and "key", which finds the picture; "fault" says of a row in a few words why it can be no pair. A caption ("text") is a
string, or a list of strings where a picture has several, without white space around it. The schema's metadata hold the
names that the data themselves use.
"""

import json
from typing import Any

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
AROUND = " \t\r\n\v\f\ufeff"  # taken from a caption's ends
TEXT = pa.large_string()  # of a hundred thousand captions of 10 MB the small one's offsets overflow
TEXTS = pa.list_(TEXT)


def found(names: list[str], asked: dict[str, str]) -> dict[str, str]:
    """{ours: the data's} for the columns that are there; `asked` names some that are spelt otherwise.

    Upper and lower case are alike, and of several spellings the first in SPELLINGS is taken. An asked column that is
    not there is not replaced by another.
    """
    lower = {name.lower(): name for name in reversed(names)}
    chosen = {ours: next((lower[name] for name in known if name in lower), None) for ours, known in SPELLINGS.items()}
    chosen |= {ours: name if name in names else None for ours, name in asked.items()}
    return {ours: name for ours, name in chosen.items() if name}


def canonical(raw: pa.Table, names: dict[str, str], keys: pa.Array, there: list[str]) -> pa.Table:
    """The `WANTED` columns of an Arrow table under our names, each of one type, beside `keys` and "fault".

    What is no number becomes null. `there` are the names that the data have.
    """
    nothing = pa.nulls(len(raw), pa.string())
    text, faults = pa.nulls(len(raw), TEXT), nothing
    if "text" in names:
        text, faults = _texts(whole(raw.column(names["text"])))
    columns = {"key": keys.cast(TEXT), "text": text}
    for name in ("language", *NUMBERS):
        if name in names:
            columns[name] = _cast(whole(raw.column(names[name])), TEXT if name == "language" else pa.float64())
    return _noted(pa.table({**columns, "fault": faults}), there)


def of_rows(keys: list[str], rows: list[dict], names: dict[str, str], captions: list | None = None) -> pa.Table:
    """The same of rows that are Python's own, value by value; `captions` where they are not among them."""
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
    """Rows that can be no pairs, for one cause."""
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
    """A column in one piece, its dictionary resolved."""
    piece = column.combine_chunks()
    if isinstance(piece, pa.ChunkedArray):  # of an empty table, or too large for one
        piece = pa.concat_arrays(piece.chunks) if piece.num_chunks else pa.nulls(0, column.type)
    return piece.dictionary_decode() if pa.types.is_dictionary(piece.type) else piece


def _cast(column: pa.Array, to: pa.DataType) -> pa.Array:
    try:
        return column.cast(to)
    except pa.ArrowException:
        return pa.array([_made(value, to) for value in column.to_pylist()], to)


def _made(value: Any, to: pa.DataType) -> str | float | None:
    try:
        return float(value) if pa.types.is_floating(to) else shown(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def _texts(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Captions as strings or lists of strings, and faults."""
    kind = column.type
    if any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        spoken = [_spoken(value) for value in column.to_pylist()]
        texts = [text if isinstance(text, list) else [] for text, _ in spoken]
        return pa.array(texts, TEXTS), pa.array([fault for _, fault in spoken], pa.string())
    nothing = pa.nulls(len(column), pa.string())
    if pa.types.is_null(kind):
        return pa.nulls(len(column), TEXT), nothing
    try:
        text = column.cast(pa.large_binary()).cast(TEXT)  # which looks at every byte
        return pc.utf8_trim(text, characters=AROUND), nothing
    except pa.ArrowException:  # bytes that are no text, or another type
        spoken = [_spoken(value) for value in column.to_pylist()]
        texts = pa.array([text if isinstance(text, str) else None for text, _ in spoken], TEXT)
        return texts, pa.array([fault for _, fault in spoken], pa.string())


def _spoken(value: Any) -> tuple[str | list[str] | None, str | None]:
    """A caption, or several, and what is wrong with it if there is none."""
    if isinstance(value, list):
        each = [_spoken(one) for one in value if not isinstance(one, list)]
        texts = [text for text, _ in each if text]
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
