"""Rejected pairs, counts by criterion and by cause, with the first few examples of each criterion."""

import json
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prunella.data.criteria import CRITERIA, NO_VALUE, PASSED

MAX_EXAMPLES = 8  # of rejected pairs, for each criterion, and of kept ones
Caption = str | list[str]


class Example(NamedTuple):
    """A rejected or a kept pair, for the page."""

    key: str
    text: str
    cause: str  # a cause, where there is one


class RejectionStats:
    """Counts by criterion and by cause, with the first few examples of each criterion."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(CRITERIA, 0))
        self.causes: Counter[str] = Counter()
        self.examples: dict[str, list[Example]] = defaultdict(list)

    def add(self, criterion: str, key: str, text: Caption, cause: str = "") -> None:
        self.counts[criterion] += 1
        if cause:
            self.causes[cause] += 1
        self.add_example(criterion, key, text, cause)

    def add_rows(self, rows: pa.Table, reasons: np.ndarray) -> None:
        """Count the rows of a table by the numbers of their criteria."""
        for number, count in zip(*np.unique(reasons[reasons != PASSED], return_counts=True), strict=True):
            criterion, indices = CRITERIA[number], np.flatnonzero(reasons == number)
            self.counts[criterion] += int(count)
            if criterion == "broken":
                self.causes.update(rows["fault"].take(pa.array(indices)).to_pylist())
            elif criterion in rows.column_names and (
                num_missing := _count_missing(rows[criterion].take(pa.array(indices)))
            ):
                self.causes[f"{criterion}: {NO_VALUE}"] += num_missing
            for row in rows.take(pa.array(indices[:MAX_EXAMPLES])).to_pylist():
                self.add_example(criterion, row["key"], row["text"], row["fault"] or "")

    def add_example(self, criterion: str, key: str, text: Caption | None, cause: str = "") -> None:
        if len(self.examples[criterion]) < MAX_EXAMPLES:
            caption = " / ".join(text) if isinstance(text, list) else text or ""
            self.examples[criterion].append(Example(key, caption[:200], cause))

    def merge(self, other: "RejectionStats") -> None:
        """Add what was counted after this."""
        self.counts.update(other.counts)
        self.causes.update(other.causes)
        for criterion, examples in other.examples.items():
            self.examples[criterion] += examples[: MAX_EXAMPLES - len(self.examples[criterion])]

    def to_json(self) -> str:
        return json.dumps([self.counts, self.causes, self.examples])

    @classmethod
    def from_json(cls, text: str | bytes) -> "RejectionStats":
        stats, (counts, causes, examples) = cls(), json.loads(text)
        stats.counts.update(counts)
        stats.causes.update(causes)
        stats.examples.update(
            {criterion: [Example(*fields) for fields in group] for criterion, group in examples.items()}
        )
        return stats


def _count_missing(values: pa.ChunkedArray) -> int:
    return pc.sum(pc.is_null(values, nan_is_null=True)).as_py() or 0
