"""`reports/filter.html`: what fell out at each criterion, with pictures; one file that needs no other."""

import base64
import io
from collections.abc import Callable
from html import escape

from PIL import Image

from prunella.data.filter import Example
from prunella.data.images import RejectedImage
from prunella.reporting.style import STYLE

SIDE = 144  # pixels of the longer side of a picture shown
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
BARS = """
.bar { background: #1b6ca8; height: .8em; display: inline-block } .shown img { max-height: 144px }
.shown figure { width: 150px; vertical-align: top; word-wrap: break-word }
"""


def filter_page(report: dict, examples: dict[str, list[Example]], picture: Callable[[str], Image.Image]) -> str:
    """The whole page; `picture` gives an example's picture by its key, and raises Unfit where there is none."""
    read = report["read"]
    counts = {name: count for name, count in report["fell"].items() if count}
    rows = [_row(name, count, read) for name, count in {**counts, "none of these": report["passed"]}.items()]
    causes = "".join(f"<li>{escape(cause)}: {count:,}</li>" for cause, count in report["causes"].items())
    shown = "".join(
        f"<h2>{escape(name)}</h2><p>{escape(ABOUT.get(name, 'some of the pairs that are used'))}</p>"
        f'<div class="shown">{"".join(_shown(example, picture) for example in examples[name])}</div>'
        for name in ["kept", *counts]
        if examples.get(name)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Filter</title><style>{STYLE}{BARS}</style>'
        f"<h1>What fell out of the data</h1><p>{read:,} rows read (source: {escape(report['source'])}), "
        f"{report['looked_at']:,} pictures looked at, {report['kept']:,} pairs kept. A pair is counted at the first "
        "criterion that it fails; pictures beyond the number wanted are not looked at.</p>"
        f"<table><tr><th>criterion</th><th>pairs</th><th>share</th><th></th></tr>{''.join(rows)}</table>"
        f"{f'<h2>Causes</h2><ul>{causes}</ul>' if causes else ''}{shown}</html>\n"
    )


def _row(name: str, count: int, read: int) -> str:
    share = count / read if read else 0
    return (
        f"<tr><td>{escape(name)}</td><td>{count:,}</td><td>{share:.2%}</td>"
        f'<td style="text-align:left"><span class="bar" style="width:{300 * share:.0f}px"></span></td></tr>'
    )


def _shown(example: Example, picture: Callable[[str], Image.Image]) -> str:
    try:
        drawn = picture(example.key)
        drawn.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        drawn.save(file, "JPEG", quality=85)
        data = base64.b64encode(file.getvalue()).decode()
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(example.key)}">'
    except Exception as why:  # whatever is wrong with one picture, the page of a long run is still written
        image = f"<em>{escape(example.note or (str(why) if isinstance(why, RejectedImage) else 'no picture'))}</em>"
    note = f"<br><b>{escape(example.note)}</b>" if example.note and "<img" in image else ""
    said = f"{escape(example.text)}<br><code>{escape(example.key)}</code>{note}"
    return f"<figure>{image}<figcaption>{said}</figcaption></figure>"
