"""What fell out, and why: counts by criterion and by cause, with the first few examples of each criterion."""

import json
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prunella.data.criteria import CRITERIA, NO_VALUE, PASSED

EXAMPLES = 8  # of rejected pairs, for each criterion, and of kept ones
Caption = str | list[str]


class Example(NamedTuple):
    """A rejected or a kept pair, for the page."""

    key: str
    text: str
    note: str  # a cause, where there is one


class Tally:
    """Counts by criterion and by cause, with the first few examples of each criterion."""

    def __init__(self) -> None:
        self.fell: Counter[str] = Counter(dict.fromkeys(CRITERIA, 0))
        self.causes: Counter[str] = Counter()
        self.examples: dict[str, list[Example]] = defaultdict(list)

    def add(self, criterion: str, key: str, text: Caption, cause: str = "") -> None:
        self.fell[criterion] += 1
        if cause:
            self.causes[cause] += 1
        self.show(criterion, key, text, cause)

    def add_rows(self, rows: pa.Table, reasons: np.ndarray) -> None:
        """Count the rows of a table by the numbers of their criteria."""
        for number, count in zip(*np.unique(reasons[reasons != PASSED], return_counts=True), strict=True):
            criterion, at = CRITERIA[number], np.flatnonzero(reasons == number)
            self.fell[criterion] += int(count)
            if criterion == "broken":
                self.causes.update(rows["fault"].take(pa.array(at)).to_pylist())
            elif criterion in rows.column_names and (none := _without(rows[criterion].take(pa.array(at)))):
                self.causes[f"{criterion}: {NO_VALUE}"] += none
            for row in rows.take(pa.array(at[:EXAMPLES])).to_pylist():
                self.show(criterion, row["key"], row["text"], row["fault"] or "")

    def show(self, criterion: str, key: str, text: Caption | None, cause: str = "") -> None:
        if len(self.examples[criterion]) < EXAMPLES:
            said = " / ".join(text) if isinstance(text, list) else text or ""
            self.examples[criterion].append(Example(key, said[:200], cause))

    def join(self, later: "Tally") -> None:
        """Add what was counted after this."""
        self.fell.update(later.fell)
        self.causes.update(later.causes)
        for criterion, examples in later.examples.items():
            self.examples[criterion] += examples[: EXAMPLES - len(self.examples[criterion])]

    def as_json(self) -> str:
        return json.dumps([self.fell, self.causes, self.examples])

    @classmethod
    def of_json(cls, text: str | bytes) -> "Tally":
        it, (fell, causes, examples) = cls(), json.loads(text)
        it.fell.update(fell)
        it.causes.update(causes)
        it.examples.update({criterion: [Example(*each) for each in some] for criterion, some in examples.items()})
        return it


def _without(values: pa.ChunkedArray) -> int:
    return pc.sum(pc.is_null(values, nan_is_null=True)).as_py() or 0
