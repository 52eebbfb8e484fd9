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

COLUMN_ALIASES = {
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
NUMERIC_COLUMNS = ("width", "height", "aesthetic", "punsafe", "pwatermark", "similarity")
TABLE_COLUMNS = ("text", "language", *NUMERIC_COLUMNS)  # what criteria look at
NO_UTF8, NO_TEXT, NAME_NO_UTF8 = "caption not UTF-8", "caption is no text", "file name not UTF-8"
MAX_CAPTIONS = 1000  # of a picture; more are no captions
TOO_MANY_CAPTIONS = "too many captions"
MAX_LANGUAGE_BYTES = 64  # bytes of a language's code; more is none
STRIPPED_CHARS = " \t\r\n\v\f\ufeff"  # taken from a caption's ends
TEXT_TYPE = pa.large_string()  # of a hundred thousand captions of 10 MB the small one's offsets overflow
TEXT_LIST_TYPE = pa.list_(TEXT_TYPE)


def match_columns(names: list[str], overrides: dict[str, str]) -> dict[str, str]:
    """{our name: the data's} of the columns that exist; `overrides` names some that are spelt otherwise.

    Case is ignored, and the first spelling in SPELLINGS wins. An asked column that does not exist is not replaced by
    another.
    """
    lower = {name.lower(): name for name in reversed(names)}
    matched = {
        our_column: next((lower[name] for name in aliases if name in lower), None)
        for our_column, aliases in COLUMN_ALIASES.items()
    }
    matched |= {our_column: name if name in names else None for our_column, name in overrides.items()}
    return {our_column: name for our_column, name in matched.items() if name}


def normalize_table(raw: pa.Table, names: dict[str, str], keys: pa.Array, column_names: list[str]) -> pa.Table:
    """The `TABLE_COLUMNS` columns of an Arrow table under our names, each of one type, beside `keys` and "fault".

    A value that is not a number becomes null. `column_names` are the data's own column names.
    """
    no_faults = pa.nulls(len(raw), pa.string())
    text, faults = pa.nulls(len(raw), TEXT_TYPE), no_faults
    if "text" in names:
        text, faults = normalize_captions(combine_chunks(raw.column(names["text"])))
    columns = {"key": keys.cast(TEXT_TYPE), "text": text}
    for name in ("language", *NUMERIC_COLUMNS):
        if name in names:
            columns[name] = _cast_column(
                combine_chunks(raw.column(names[name])), TEXT_TYPE if name == "language" else pa.float64()
            )
    return _attach_column_names(pa.table({**columns, "fault": faults}), column_names)


def rows_to_table(keys: list[str], rows: list[dict], names: dict[str, str], captions: list | None = None) -> pa.Table:
    """The same for rows that are dictionaries; `captions` where the rows do not hold them."""
    captions = [row.get(names.get("text")) for row in rows] if captions is None else captions
    parsed = [_parse_caption(caption) for caption in captions]
    has_lists = any(isinstance(text, list) for text, _ in parsed)
    texts = [text if isinstance(text, list) else [text] if text else [] for text, _ in parsed] if has_lists else None
    columns = {
        "key": pa.array([escape_non_utf8(key) for key in keys], TEXT_TYPE),
        "text": pa.array(
            texts if has_lists else [text for text, _ in parsed], TEXT_LIST_TYPE if has_lists else TEXT_TYPE
        ),
    }
    for name in ("language", *NUMERIC_COLUMNS):
        if name in names:
            arrow_type = TEXT_TYPE if name == "language" else pa.float64()
            columns[name] = pa.array([_cast_value(row.get(names[name]), arrow_type) for row in rows], arrow_type)
    faults = [
        NAME_NO_UTF8 if escape_non_utf8(key) != key else fault for key, (_, fault) in zip(keys, parsed, strict=True)
    ]
    column_names = list(dict.fromkeys(str(name) for row in rows for name in row))
    return _attach_column_names(pa.table({**columns, "fault": pa.array(faults, pa.string())}), column_names)


def make_fault_rows(keys: list[str], cause: str) -> pa.Table:
    """Rows that can be no pairs, all for one cause."""
    columns = {"key": pa.array(map(escape_non_utf8, keys), TEXT_TYPE), "text": pa.nulls(len(keys), TEXT_TYPE)}
    return pa.table({**columns, "fault": pa.array([cause] * len(keys), pa.string())})


def read_column_names(rows: pa.Table) -> list[str]:
    """The data's own names of columns."""
    return json.loads((rows.schema.metadata or {}).get(b"columns", b"[]"))


def escape_non_utf8(name: str) -> str:
    """A name as UTF-8 can hold it."""
    return name.encode(errors="backslashreplace").decode()


def _attach_column_names(rows: pa.Table, names: list[str]) -> pa.Table:
    return rows.replace_schema_metadata({"columns": json.dumps(names)})


def combine_chunks(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # of an empty table, or too large for one
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.nulls(0, column.type)
    return combined


def is_list_type(arrow_type: pa.DataType) -> bool:
    return any(test(arrow_type) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def count_caption_bytes(column: pa.Array) -> np.ndarray:
    """Bytes of each row's captions once they are written out; 0 of what is no list of captions."""
    if not is_list_type(column.type):
        return np.zeros(len(column), np.int64)
    entries = column.flatten()
    lengths = _byte_lengths(entries)
    return np.bincount(pc.list_parent_indices(column), weights=lengths, minlength=len(column)).astype(np.int64)


def _byte_lengths(entries: pa.Array) -> np.ndarray:
    """Bytes of each entry."""
    if pa.types.is_dictionary(entries.type):
        entry_lengths = np.append(_byte_lengths(entries.dictionary), 0)
        return entry_lengths[np.asarray(pc.fill_null(entries.indices, len(entry_lengths) - 1))]
    if not _is_text_type(entries.type):
        return np.zeros(len(entries))
    return np.asarray(pc.fill_null(pc.binary_length(entries.cast(pa.large_binary())), 0))


def _is_text_type(arrow_type: pa.DataType) -> bool:
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(arrow_type) for test in (*tests, types.is_binary_view, types.is_fixed_size_binary))


def _cast_column(column: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(column.type):  # cast before its entries are multiplied
        return _cast_column(column.dictionary, arrow_type).take(column.indices)
    if pa.types.is_nested(column.type):
        return pa.nulls(len(column), arrow_type)
    try:
        result = column.cast(arrow_type)
    except pa.ArrowException:
        result = pa.array([_cast_value(value, arrow_type) for value in column.to_pylist()], arrow_type)
    if arrow_type == TEXT_TYPE:
        result = pc.if_else(
            pc.greater(pc.binary_length(result), MAX_LANGUAGE_BYTES), pa.scalar(None, TEXT_TYPE), result
        )
    return result


def _cast_value(value: Any, arrow_type: pa.DataType) -> str | float | None:
    try:
        return float(value) if pa.types.is_floating(arrow_type) else escape_non_utf8(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def normalize_captions(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Captions as strings, as a dictionary of strings or as lists of strings, and faults."""
    if pa.types.is_dictionary(column.type):
        texts, faults = normalize_captions(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, texts), faults.take(column.indices)
    if is_list_type(column.type):
        within_limit = np.asarray(pc.fill_null(pc.list_value_length(column), 0)) <= MAX_CAPTIONS
        parsed = [
            _parse_caption(row.as_py()) if fits else ([], TOO_MANY_CAPTIONS)
            for row, fits in zip(column, within_limit, strict=True)
        ]
        texts = [text if isinstance(text, list) else [] for text, _ in parsed]
        return pa.array(texts, TEXT_LIST_TYPE), pa.array([fault for _, fault in parsed], pa.string())
    no_faults = pa.nulls(len(column), pa.string())
    if not _is_text_type(column.type):
        no_text = pc.if_else(column.is_valid(), NO_TEXT, pa.scalar(None, pa.string()))
        return pa.nulls(len(column), TEXT_TYPE), no_text
    try:
        text = column.cast(pa.large_binary()).cast(TEXT_TYPE)  # which looks at every byte
        return pc.utf8_trim(text, characters=STRIPPED_CHARS), no_faults
    except pa.ArrowInvalid:  # bytes that are no text
        parsed = [_parse_caption(value) for value in column.to_pylist()]
        texts = pa.array([text if isinstance(text, str) else None for text, _ in parsed], TEXT_TYPE)
        return texts, pa.array([fault for _, fault in parsed], pa.string())


def _parse_caption(value: Any) -> tuple[str | list[str] | None, str | None]:
    """A caption, or several, and why there is none."""
    if isinstance(value, list):
        parsed_items = [_parse_caption(item) for item in value if not isinstance(item, list)]
        texts = [text for text, _ in parsed_items if isinstance(text, str) and text]
        return texts, None if texts else next((fault for _, fault in parsed_items if fault), None)
    if value is None:
        return None, None
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            return None, NO_TEXT
        text.encode()  # a lone half of a surrogate pair is none
    except UnicodeError:
        return None, NO_UTF8
    return text.strip(STRIPPED_CHARS), None
