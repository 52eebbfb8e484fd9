"""Pairs rejected at each criterion of the filter, with pictures: `reports/filter.html`, and a part of index.html."""

from pathlib import Path
from typing import Any

from prunella.data.examples import EXAMPLES_FILE
from prunella.reporting.render import render_page
from prunella.storage.files import read_json

WARN_FRACTION = 0.5  # of all pairs, fallen out at one criterion: worth a warning
CRITERION_TEXTS = {
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


class FilterSummary:
    """The filter's part of a page: its report, and its examples from the folder that the filter has written."""

    def __init__(self, report: dict[str, Any], folder: Path):
        self.report, self.folder = report, folder
        counts = {name: count for name, count in report["fell"].items() if count}
        read = max(report["read"], 1)
        self.rows = [(name, count, count / read) for name, count in counts.items()]
        self.passed = (report["passed"], report["passed"] / read)
        examples = read_json(folder / EXAMPLES_FILE)
        self.shown = [
            (
                name,
                CRITERION_TEXTS.get(name, "some of the pairs that are used"),
                [self._add_file_paths(example) for example in group],
            )
            for name in ["kept", *counts]
            if (group := examples.get(name))
        ]

    @property
    def warnings(self) -> list[str]:
        """The criteria at which half of all pairs or more fell out."""
        return [
            f"{count / self.report['read']:.0%} of all pairs fell out at {name} ({CRITERION_TEXTS[name]}): is that "
            "meant?"
            for name, count, fraction in self.rows
            if fraction >= WARN_FRACTION
        ]

    def _add_file_paths(self, example: dict[str, Any]) -> dict[str, Any]:
        """With "file", and "of" likewise: what a duplicate is a duplicate of, where the filter says."""
        with_file = example | {"file": self.folder / example["image"] if example["image"] else None}
        return with_file | {"of": self._add_file_paths(example["of"]) if example.get("of") else None}


def render_filter_page(filter_summary: FilterSummary) -> str:
    """The whole page."""
    return render_page("filter.html.j2", filtered=filter_summary)
