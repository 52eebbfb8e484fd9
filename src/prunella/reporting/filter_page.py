"""`reports/filter.html`: what fell out at each criterion, with pictures; one file that needs no other."""

import json
from pathlib import Path
from typing import Any

from prunella.data.examples import LISTED
from prunella.reporting.render import render

ABOUT = {
    "broken": "cannot be used; the causes are counted above",
    "no_caption": "no caption",
    "caption_short": "caption shorter than min_caption",
    "caption_long": "caption longer than max_caption",
    "caption_odd": "caption with NUL, or longer than a hundred times max_caption",
    "blocked_word": "caption holds one of blocked_words",
    "language": "not in one of languages",
    "small": "below min_side or min_megapixels",
    "large": "above max_megapixels",
    "aspect": "longer side more than max_aspect times the shorter",
    "aesthetic": "aesthetic score below aesthetic.min",
    "punsafe": "above max_punsafe",
    "pwatermark": "above max_pwatermark",
    "similarity": "below min_similarity",
    "animated": "more than one frame",
    "blank": "contrast below min_contrast",
    "duplicate": "the same bytes as one before",
    "near_duplicate": "looks like one before, within near_duplicates bits",
}


def filter_page(report: dict[str, Any], folder: Path) -> str:
    """The whole page of the filter's report; `folder` holds the examples that the filter has written."""
    listed = json.loads((folder / LISTED).read_text(encoding="utf-8"))
    counts = {name: count for name, count in report["fell"].items() if count}
    read = max(report["read"], 1)
    return render(
        "filter.html.j2",
        report=report,
        rows=[(name, count, count / read) for name, count in {**counts, "none of these": report["passed"]}.items()],
        shown=[
            (name, ABOUT.get(name, "some of the pairs that are used"), [_with_file(each, folder) for each in some])
            for name in ["kept", *counts]
            if (some := listed.get(name))
        ],
    )


def _with_file(example: dict[str, Any], folder: Path) -> dict[str, Any]:
    return example | {"file": folder / example["image"] if example["image"] else None}
