"""Columns of a table of pairs: the field's spellings of them, and captions of every kind made text.

Wherever rows come from, they come as Arrow tables of the columns named in SPELLINGS, as far as the data have them,
and "key", which finds the picture; "fault" says of a row in a few words why it can be no pair. A caption ("text") is a
string, or a list of strings where a picture has several.
"""

import pyarrow as pa
import pyarrow.compute as pc

from prunella.errors import UserError

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
NO_UTF8 = "caption not UTF-8"


def found(names: list[str], asked: dict[str, str]) -> dict[str, str]:
    """{ours: the data's} for the columns that are there; `asked` names some that are spelt otherwise.

    Upper and lower case are alike, and of several spellings the first in SPELLINGS is taken. Raises UserError where an
    asked one is not there.
    """
    lower = {name.lower(): name for name in reversed(names)}
    chosen = {ours: next((lower[name] for name in known if name in lower), None) for ours, known in SPELLINGS.items()}
    for ours, name in asked.items():
        if name not in names:
            raise UserError(f"filter.columns.{ours}: the data have no column {name!r}; they have {', '.join(names)}")
        chosen[ours] = name
    return {ours: name for ours, name in chosen.items() if name}


def canonical(raw: pa.Table, names: dict[str, str], keys: pa.Array) -> pa.Table:
    """The `WANTED` columns of `raw` under our names, each of one type, beside `keys` and "fault".

    What is no number becomes null; a caption that is no text too. A caption that is no UTF-8 is a fault.
    """
    faults = pa.nulls(len(raw), pa.string())
    columns = {"key": keys.cast(pa.string())}
    if "text" in names:
        columns["text"], faults = _texts(_whole(raw.column(names["text"])))
    else:
        columns["text"] = pa.nulls(len(raw), pa.string())
    if "language" in names:
        columns["language"] = _cast(_whole(raw.column(names["language"])), pa.string())
    for name in NUMBERS:
        if name in names:
            columns[name] = _cast(_whole(raw.column(names[name])), pa.float64())
    return pa.table({**columns, "fault": faults})


def faulty(keys: list[str], cause: str) -> pa.Table:
    """Rows that can be no pairs, for one cause."""
    return pa.table({"key": keys, "text": pa.nulls(len(keys), pa.string()), "fault": [cause] * len(keys)})


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of an empty table, or too large for one
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.nulls(0, column.type)
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _cast(column: pa.Array, to: pa.DataType) -> pa.Array:
    try:
        return column.cast(to)
    except pa.ArrowException:
        return pa.array([_made(value, to) for value in column.to_pylist()], to)


def _made(value, to: pa.DataType):
    try:
        return str(value) if pa.types.is_string(to) else float(value)
    except (TypeError, ValueError):
        return None


def _texts(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Captions as strings or lists of strings, and faults."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, faults = _strings(column.flatten())
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        bad = set(parents[faults.is_valid().to_numpy(zero_copy_only=False)].tolist())
        rows = [[] for _ in range(len(column))]
        for parent, value in zip(parents.tolist(), values.to_pylist(), strict=True):
            if value is not None:
                rows[parent].append(value)
        said = [NO_UTF8 if i in bad and not rows[i] else None for i in range(len(column))]
        return pa.array(rows, pa.list_(pa.string())), pa.array(said, pa.string())
    return _strings(column)


def _strings(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    kind, none = column.type, pa.nulls(len(column), pa.string())
    if not any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
                                       pa.types.is_large_binary)):  # fmt: skip
        return none, none
    binary = column.cast(pa.binary())
    try:
        return binary.cast(pa.string()), none  # which looks at every byte
    except pa.ArrowInvalid:
        texts = [_text(value) for value in binary.to_pylist()]
    faults = [NO_UTF8 if text is False else None for text in texts]
    return pa.array([text or None for text in texts], pa.string()), pa.array(faults, pa.string())


def _text(value: bytes | None) -> str | bool | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return False
