from xml.etree import ElementTree

from prunella.reporting.chart import chart


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
