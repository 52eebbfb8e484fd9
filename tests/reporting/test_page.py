from html.parser import HTMLParser
from xml.etree import ElementTree

from prunella.reporting.page import chart, page, table

ROWS = [["model", "score"], ["a<b", "0.5"]]


def test_tables_are_escaped():
    assert table(ROWS) == ("<table><tr><th>model</th><th>score</th></tr><tr><td>a&lt;b</td><td>0.5</td></tr></table>")


def test_a_chart_is_sound_svg_with_a_line_and_a_name_each():
    drawn = ElementTree.fromstring(chart({"a & b": [(0, 1.0), (10, 0.1)], "flat": [(0, 0.5), (10, 0.5)]}))
    assert [text.text for text in drawn.iter("text")][-2:] == ["a & b", "flat"]
    paths = [path.get("d") for path in drawn.iter("path") if path.get("stroke-width")]
    assert paths[0] == "M50.0 10.0L370.0 235.0"  # from the top left to the bottom right of the frame
    assert len(paths) == 2


def test_values_that_a_logarithm_lacks_are_left_out():
    drawn = ElementTree.fromstring(chart({"zero": [(0, 0.0), (1, 1.0), (2, 10.0)]}))
    assert [path.get("d").count("L") for path in drawn.iter("path") if path.get("stroke-width")] == [1]
    assert chart({"none": []}) == "<p>no values</p>"


def test_the_page_holds_everything_and_is_well_nested():
    report = {"hardware": {"device": "cpu"}, "settings": {"guidance": 4.0}}
    text = page(
        report,
        [ROWS],
        ["<svg><!-- kept --></svg>"],
        {"grid": "images/a.png"},
        ["a <cat>"],
        {"loss": {"a": [(0, 1.0), (1, 2.0)]}},
    )
    for part in (
        "<td>0.5</td>",
        'src="images/a.png"',
        "a &lt;cat&gt;",
        "<svg",
        "<!-- kept -->",
        "guidance: 4.0",
        "device: cpu",
    ):
        assert part in text
    open_latents: list[str] = []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img", "path"):
                open_latents.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("path",):
                assert open_latents.pop() == tag

    Nesting().feed(text)
    assert open_latents == []
