"""Criteria: which rows of a table, and then which pictures, are rejected, and by which criterion.

The table's criteria are pure functions of a batch of rows, column by column; a row counts at the first that it fails. A
missing score, or NaN, fails its criterion.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prunella.data.schema import SPELLINGS, TEXT, TEXTS, whole
from prunella.errors import UserError
from prunella.params import Filter

OF_CAPTIONS = ("no_caption", "caption_short", "caption_long", "caption_odd", "blocked_word")
CRITERIA = (
    "broken", *OF_CAPTIONS, "language", "small", "large", "aspect", "aesthetic", "punsafe", "pwatermark", "similarity",
    "animated", "blank", "duplicate", "near_duplicate",
)  # fmt: skip
PASSED = -1
BLANK = r"^[\s\pZ\p{Cf}\pM\x{115F}\x{1160}\x{2800}\x{3164}\x{FFA0}]*$"  # nothing that leaves ink (RE2's spelling)
NO_VALUE = "no value"  # of a score


Size = float | np.ndarray  # pixels, of one picture or of many


class Facts(NamedTuple):
    """What is known of a picture once it has been looked at."""

    width: int
    height: int
    sum: str  # of its bytes
    contrast: float
    hash: int
    aesthetic: float | None = None


def asked(params: Filter) -> dict[str, str]:
    """{column: the parameter that needs it} of scores and languages."""
    needs = {
        "language": ("filter.languages", bool(params.languages)),
        "aesthetic": ("filter.aesthetic.min", params.aesthetic.min is not None and params.aesthetic.model is None),
        "punsafe": ("filter.max_punsafe", params.max_punsafe is not None),
        "pwatermark": ("filter.max_pwatermark", params.max_pwatermark is not None),
        "similarity": ("filter.min_similarity", params.min_similarity is not None),
    }
    return {column: name for column, (name, needed) in needs.items() if needed}


def lacking(params: Filter, columns: set[str], there: list[str]) -> None:
    """Raise UserError where a criterion needs a column that no row has; `there` are the data's own names."""
    have = ", ".join(there) or "none but captions"
    for ours, theirs in params.columns.items():
        if there and theirs not in there:
            raise UserError(f"filter.columns.{ours}: the data have no column {theirs!r}; they have {have}")
    for column, name in asked(params).items():
        if column not in columns:
            model = ", or filter.aesthetic.model a model to make it" if column == "aesthetic" else ""
            others = ", ".join(SPELLINGS[column][1:])
            raise UserError(
                f"{name}: the data at {params.path} have no column {column!r} (nor {others}); they have {have}. "
                f"filter.columns.{column} may name it{model}"
            )


def judged(rows: pa.Table, params: Filter) -> tuple[pa.Table, np.ndarray]:
    """The rows with only those captions that pass, and for each row the number of its criterion, or PASSED."""
    reasons = np.full(len(rows), PASSED, np.int8)

    def fails(criterion: str, mask: np.ndarray | pa.Array | pa.ChunkedArray) -> None:
        mask = mask if isinstance(mask, np.ndarray) else _flags(mask)
        reasons[(reasons == PASSED) & mask] = CRITERIA.index(criterion)

    fails("broken", pc.is_valid(rows["fault"]))
    rows, captions = _captions(rows, params)
    for number, criterion in enumerate(OF_CAPTIONS):
        fails(criterion, captions == number)
    if params.languages:
        known = pa.array([language.lower() for language in params.languages], TEXT)
        said = rows["language"] if "language" in rows.column_names else pa.nulls(len(rows), TEXT)
        fails("language", pc.invert(pc.is_in(pc.utf8_lower(said), known)))
    if {"width", "height"} <= set(rows.column_names):
        width, height = (np.nan_to_num(_numbers(rows, name)) for name in ("width", "height"))
        said = (width > 0) & (height > 0)  # what says nothing is judged by the picture itself
        for criterion, mask in sizes_fail(width, height, params).items():
            fails(criterion, said & mask)
    with np.errstate(invalid="ignore"):
        for column, passes in _scores(params).items():
            values = _numbers(rows, column)
            fails(column, ~passes(values))
    return rows, reasons


def sizes_fail(width: Size, height: Size, params: Filter) -> dict[str, Any]:
    """{criterion: whether it fails} of sizes in pixels; numbers or arrays."""
    short, long = np.minimum(width, height), np.maximum(width, height)
    megapixels = short * long / 1e6
    return {
        "small": (short < params.min_side) | (megapixels < (params.min_megapixels or 0)),
        "large": megapixels > (params.max_megapixels or np.inf),
        "aspect": long > params.max_aspect * short,
    }


def picture_fails(facts: Facts, params: Filter) -> str | None:
    """The criterion that a picture fails by itself, or None."""
    sizes = sizes_fail(float(facts.width), float(facts.height), params)
    if criterion := next((name for name, fails in sizes.items() if fails), None):
        return criterion
    if facts.contrast < params.min_contrast:
        return "blank"
    score, least = facts.aesthetic, params.aesthetic.min
    if score is not None and least is not None and not score >= least:  # a NaN is rejected too
        return "aesthetic"
    return None


def _scores(params: Filter) -> dict:
    """{column: whether values pass} for every score that is asked for; a NaN passes none."""
    needed = asked(params)
    limits = {
        "aesthetic": lambda values: values >= params.aesthetic.min,
        "punsafe": lambda values: values <= params.max_punsafe,
        "pwatermark": lambda values: values <= params.max_pwatermark,
        "similarity": lambda values: values >= params.min_similarity,
    }
    return {column: passes for column, passes in limits.items() if column in needed}


def _captions(rows: pa.Table, params: Filter) -> tuple[pa.Table, np.ndarray]:
    """The rows with only those captions that pass, and for each row its number in OF_CAPTIONS, or PASSED."""
    text = whole(rows["text"])
    if pa.types.is_dictionary(text.type):  # judged before its entries are multiplied
        each = np.append(_captions_fail(text.dictionary, params), np.int8(OF_CAPTIONS.index("no_caption")))
        return rows, each[np.asarray(pc.fill_null(text.indices, len(each) - 1))]
    if not pa.types.is_list(text.type):
        return rows, _captions_fail(text, params)
    each = _captions_fail(text.flatten(), params)
    parents = pc.list_parent_indices(text).to_numpy(zero_copy_only=False)
    failed = np.zeros(len(rows), np.int8)  # without captions: no_caption
    kept: list[list[str]] = [[] for _ in range(len(rows))]
    for parent, value, reason in zip(parents.tolist(), text.flatten().to_pylist(), each.tolist(), strict=True):
        if reason == PASSED:
            kept[parent].append(value)
        elif not kept[parent]:
            failed[parent] = reason
    failed[[bool(captions) for captions in kept]] = PASSED
    at = rows.column_names.index("text")
    return rows.set_column(at, "text", pa.array(kept, TEXTS)), failed


def _captions_fail(text: pa.Array, params: Filter) -> np.ndarray:
    length = pc.fill_null(pc.utf8_length(text), 0)
    masks = {
        "no_caption": _blank(text, length),
        "caption_odd": pc.match_substring(text, "\0"),
        "caption_short": pc.less(length, params.min_caption),
        "caption_long": pc.greater(length, params.max_caption),
    }
    if params.blocked_words:
        words = "|".join(map(re.escape, params.blocked_words))
        masks["blocked_word"] = pc.match_substring_regex(
            text, rf"(?:^|[^\pL\pN])(?:{words})(?:[^\pL\pN]|$)", ignore_case=True
        )
    reasons = np.full(len(text), PASSED, np.int8)
    for criterion, mask in masks.items():
        flags = mask if isinstance(mask, np.ndarray) else _flags(mask)
        reasons[(reasons == PASSED) & flags] = OF_CAPTIONS.index(criterion)
    return reasons


def _blank(text: pa.Array, length: pa.Array) -> np.ndarray:
    """Which captions of `length` characters are empty or leave no ink."""
    blank = _flags(pc.equal(length, 0))
    beyond = _flags(pc.not_equal(pc.binary_length(text), length))  # characters beyond ASCII
    blank[beyond] = _flags(pc.match_substring_regex(text.filter(pa.array(beyond)), BLANK))
    return blank


def _flags(mask: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.array(pc.fill_null(mask, False), bool)


def _numbers(rows: pa.Table, column: str) -> np.ndarray:
    """A column's numbers, NaN where there is none."""
    if column not in rows.column_names:
        return np.full(len(rows), np.nan)
    return np.asarray(rows[column].to_numpy(), np.float64)
