"""Criteria: which rows of a table, and then which pictures, are rejected, and by which criterion.

The table's criteria are pure functions of a batch of rows, column by column; a row counts at the first that it fails. A
missing score, or NaN, fails its criterion.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prunella.data.schema import COLUMN_ALIASES, TEXT_LIST_TYPE, TEXT_TYPE, combine_chunks
from prunella.errors import UserError
from prunella.params import Filter

CAPTION_CRITERIA = ("no_caption", "caption_short", "caption_long", "caption_odd", "blocked_word")
CRITERIA = (
    "broken", *CAPTION_CRITERIA, "language", "small", "large", "aspect", "aesthetic", "punsafe", "pwatermark",
    "similarity",
    "animated", "blank", "duplicate", "near_duplicate",
)  # fmt: skip
PASSED = -1
BLANK_PATTERN = (
    r"^[\s\pZ\p{Cf}\pM\x{115F}\x{1160}\x{2800}\x{3164}\x{FFA0}]*$"  # nothing that leaves ink (RE2's spelling)
)
NO_VALUE = "no value"  # of a score


PixelSize = float | np.ndarray  # pixels, of one picture or of many


class ImageFacts(NamedTuple):
    """Facts about a picture once it has been looked at."""

    width: int
    height: int
    sha256: str  # of its bytes
    contrast: float
    phash: int
    aesthetic: float | None = None


def find_required_columns(params: Filter) -> dict[str, str]:
    """{column: the parameter that needs it} of scores and languages."""
    needs = {
        "language": ("filter.languages", bool(params.languages)),
        "aesthetic": ("filter.aesthetic.min", params.aesthetic.min is not None and params.aesthetic.model is None),
        "punsafe": ("filter.max_punsafe", params.max_punsafe is not None),
        "pwatermark": ("filter.max_pwatermark", params.max_pwatermark is not None),
        "similarity": ("filter.min_similarity", params.min_similarity is not None),
    }
    return {column: name for column, (name, needed) in needs.items() if needed}


def check_columns(params: Filter, columns: set[str], column_names: list[str]) -> None:
    """Raise UserError where a criterion needs a column that no row has; `column_names` are the data's own names."""
    available = ", ".join(column_names) or "none but captions"
    for our_column, data_column in params.columns.items():
        if column_names and data_column not in column_names:
            raise UserError(
                f"filter.columns.{our_column}: the data have no column {data_column!r}; they have {available}"
            )
    for column, name in find_required_columns(params).items():
        if column not in columns:
            model = ", or filter.aesthetic.model a model to make it" if column == "aesthetic" else ""
            aliases = ", ".join(COLUMN_ALIASES[column][1:])
            raise UserError(
                f"{name}: the data at {params.path} have no column {column!r} (nor {aliases}); they have {available}. "
                f"filter.columns.{column} may name it{model}"
            )


def apply_criteria(rows: pa.Table, params: Filter) -> tuple[pa.Table, np.ndarray]:
    """The rows with only those captions that pass, and for each row the number of its criterion, or PASSED."""
    reasons = np.full(len(rows), PASSED, np.int8)

    def reject(criterion: str, mask: np.ndarray | pa.Array | pa.ChunkedArray) -> None:
        mask = mask if isinstance(mask, np.ndarray) else _to_bool_mask(mask)
        reasons[(reasons == PASSED) & mask] = CRITERIA.index(criterion)

    reject("broken", pc.is_valid(rows["fault"]))
    rows, captions = _filter_captions(rows, params)
    for number, criterion in enumerate(CAPTION_CRITERIA):
        reject(criterion, captions == number)
    if params.languages:
        allowed = pa.array([language.lower() for language in params.languages], TEXT_TYPE)
        stated = rows["language"] if "language" in rows.column_names else pa.nulls(len(rows), TEXT_TYPE)
        reject("language", pc.invert(pc.is_in(pc.utf8_lower(stated), allowed)))
    if {"width", "height"} <= set(rows.column_names):
        width, height = (np.nan_to_num(_column_values(rows, name)) for name in ("width", "height"))
        stated = (width > 0) & (height > 0)  # what says nothing is judged by the picture itself
        for criterion, mask in find_size_failures(width, height, params).items():
            reject(criterion, stated & mask)
    with np.errstate(invalid="ignore"):
        for column, passes in _score_limits(params).items():
            values = _column_values(rows, column)
            reject(column, ~passes(values))
    return rows, reasons


def find_size_failures(width: PixelSize, height: PixelSize, params: Filter) -> dict[str, Any]:
    """{criterion: whether it fails} of sizes in pixels; numbers or arrays."""
    short, long = np.minimum(width, height), np.maximum(width, height)
    megapixels = short * long / 1e6
    return {
        "small": (short < params.min_side) | (megapixels < (params.min_megapixels or 0)),
        "large": megapixels > (params.max_megapixels or np.inf),
        "aspect": long > params.max_aspect * short,
    }


def find_failed_criterion(facts: ImageFacts, params: Filter) -> str | None:
    """The criterion that a picture fails by itself, or None."""
    sizes = find_size_failures(float(facts.width), float(facts.height), params)
    if criterion := next((name for name, failed in sizes.items() if failed), None):
        return criterion
    if facts.contrast < params.min_contrast:
        return "blank"
    score, min_score = facts.aesthetic, params.aesthetic.min
    if score is not None and min_score is not None and not score >= min_score:  # a NaN is rejected too
        return "aesthetic"
    return None


def _score_limits(params: Filter) -> dict:
    """{column: whether values pass} for every score that is asked for; a NaN passes none."""
    needed = find_required_columns(params)
    limits = {
        "aesthetic": lambda values: values >= params.aesthetic.min,
        "punsafe": lambda values: values <= params.max_punsafe,
        "pwatermark": lambda values: values <= params.max_pwatermark,
        "similarity": lambda values: values >= params.min_similarity,
    }
    return {column: passes for column, passes in limits.items() if column in needed}


def _filter_captions(rows: pa.Table, params: Filter) -> tuple[pa.Table, np.ndarray]:
    """The rows with only those captions that pass, and for each row its number in OF_CAPTIONS, or PASSED."""
    text = combine_chunks(rows["text"])
    if pa.types.is_dictionary(text.type):  # judged before its entries are multiplied
        reasons = np.append(_caption_failures(text.dictionary, params), np.int8(CAPTION_CRITERIA.index("no_caption")))
        return rows, reasons[np.asarray(pc.fill_null(text.indices, len(reasons) - 1))]
    if not pa.types.is_list(text.type):
        return rows, _caption_failures(text, params)
    reasons = _caption_failures(text.flatten(), params)
    parents = pc.list_parent_indices(text).to_numpy(zero_copy_only=False)
    failed = np.zeros(len(rows), np.int8)  # without captions: no_caption
    retained: list[list[str]] = [[] for _ in range(len(rows))]
    for parent, value, reason in zip(parents.tolist(), text.flatten().to_pylist(), reasons.tolist(), strict=True):
        if reason == PASSED:
            retained[parent].append(value)
        elif not retained[parent]:
            failed[parent] = reason
    failed[[bool(captions) for captions in retained]] = PASSED
    index = rows.column_names.index("text")
    return rows.set_column(index, "text", pa.array(retained, TEXT_LIST_TYPE)), failed


def _caption_failures(text: pa.Array, params: Filter) -> np.ndarray:
    length = pc.fill_null(pc.utf8_length(text), 0)
    masks = {
        "no_caption": _is_blank(text, length),
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
        flags = mask if isinstance(mask, np.ndarray) else _to_bool_mask(mask)
        reasons[(reasons == PASSED) & flags] = CAPTION_CRITERIA.index(criterion)
    return reasons


def _is_blank(text: pa.Array, length: pa.Array) -> np.ndarray:
    """The captions of `length` characters are empty or leave no ink."""
    blank = _to_bool_mask(pc.equal(length, 0))
    non_ascii = _to_bool_mask(pc.not_equal(pc.binary_length(text), length))  # characters beyond ASCII
    blank[non_ascii] = _to_bool_mask(pc.match_substring_regex(text.filter(pa.array(non_ascii)), BLANK_PATTERN))
    return blank


def _to_bool_mask(mask: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.array(pc.fill_null(mask, False), bool)


def _column_values(rows: pa.Table, column: str) -> np.ndarray:
    """A column's numbers, NaN where there is none."""
    if column not in rows.column_names:
        return np.full(len(rows), np.nan)
    return np.asarray(rows[column].to_numpy(), np.float64)
