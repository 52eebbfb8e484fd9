from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from prunella.reporting.page import page
from prunella.reporting.render import render

REPORT = {
    "hardware": {"device": "cpu"},
    "settings": {"guidance": 4.0},
    "unavailable": {"latent_frechet": "3 < 640 pictures"},
}


def whole(**changes) -> str:
    parts = {
        "tables": [[["model", "score"], ["a<b", "0.5"]]],
        "plans": ["<svg><!-- kept --></svg>"],
        "images": {"grid & co": "images/a.png"},
        "prompts": ["a <cat>"],
        "curves": {"loss": {"a": [(0, 1.0), (1, 2.0)]}},
    }
    return page(REPORT, **parts | changes)


def test_the_page_holds_everything():
    text = whole()
    for part in (
        "<td>0.5</td>",
        'src="images/a.png"',
        "<svg",
        "<!-- kept -->",
        "guidance: 4.0",
        "device: cpu",
        "latent_frechet: 3 &lt; 640 pictures",
    ):
        assert part in text


def test_texts_are_escaped():
    text = whole()
    assert "a &lt;cat&gt;" in text and "<td>a&lt;b</td>" in text and 'alt="grid &amp; co"' in text
    assert "<cat>" not in text and "a<b" not in text


def test_the_page_is_well_nested():
    nested: list[str] = []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img", "path"):
                nested.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("path",):
                assert nested.pop() == tag

    Nesting().feed(whole())
    assert nested == []


def test_what_is_missing_is_no_empty_place():
    with pytest.raises(UndefinedError, match="report"):
        render("filter.html.j2", rows=[], shown=[])
