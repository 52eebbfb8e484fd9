import base64
import io
import json
import re

import layouts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import LIMITS, drawn
from PIL import Image

from prunella.data.criteria import CRITERIA
from prunella.data.examples import write_examples
from prunella.data.filter import filter_dataset
from prunella.data.sources import open_source
from prunella.params import Filter, validate_config
from prunella.reporting.filter_report import CRITERION_TEXTS, FilterSummary, render_filter_page


def test_the_page_shows_what_fell_out_with_pictures(tmp_path):
    rows = [(f"{i}.png", drawn(i), f"a <b>caption</b> {i}") for i in range(5)]
    rows += [("wide.png", drawn(9, (90, 20)), "wide"), ("html.png", b"<html>", "a page")]
    path = layouts.folder(tmp_path / "p", rows)
    given = validate_config(Filter, LIMITS | {"source": "folder", "path": str(path)}, "filter")
    report, examples, source = filter_dataset(given, 0, tmp_path / "out")
    write_examples(tmp_path / "examples", examples, open_source(source).load_image)
    page = " ".join(render_filter_page(FilterSummary(report, tmp_path / "examples")).split())
    assert "7 pairs read (source: folder), 7 pictures looked at, 5 pairs kept" in page
    assert '<th scope="row">aspect</th><td>1</td><td>14.29%</td>' in page
    assert '<th scope="row">passed all</th><td>5</td>' in page and "is that meant?" not in page
    assert "a web page or other markup: 1" in page and ">small</th>" not in page
    assert "a &lt;b&gt;caption&lt;/b&gt; 0" in page and "<b>caption" not in page
    shown = [Image.open(io.BytesIO(base64.b64decode(each))) for each in re.findall(r"base64,([^\"]*)", page)]
    assert [picture.size for picture in shown] == [(40, 30)] * 5 + [(90, 20)]
    assert "<em>a web page or other markup</em>" in page


def test_every_criterion_is_explained():
    assert set(CRITERION_TEXTS) == set(CRITERIA)


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "hub"])
def test_pages_of_every_source_show_pictures(layout, tmp_path):
    rows = [(f"{i}.png", drawn(i), "caption" if i else "x") for i in range(4)]
    path = layouts.LAYOUTS[layout][0](tmp_path / "data", rows)
    if layout == "parquet":
        pq.write_table(pa.table({"text": ["no picture"]}), path / "z.parquet")
    given = validate_config(Filter, LIMITS | layouts.settings(layout, path), "filter")
    report, examples, source = filter_dataset(given, 0, tmp_path / "out")
    write_examples(tmp_path / "examples", examples, open_source(source).load_image)
    page = render_filter_page(FilterSummary(report, tmp_path / "examples"))
    assert page.count("base64,") == 4 and page.count("<em>no column image</em>") == (layout == "parquet")


def test_a_criterion_that_drops_half_is_warned_of(tmp_path):
    (tmp_path / "examples.json").write_text("{}")
    report = {"source": "folder", "read": 8, "looked_at": 8, "kept": 4, "passed": 4, "causes": {}}
    fell = {"small": 3, "caption_short": 1, "large": 0}
    assert FilterSummary(report | {"fell": fell}, tmp_path).warnings == []
    fell = {"small": 4, "caption_short": 0}
    assert FilterSummary(report | {"fell": fell}, tmp_path).warnings == [
        "50% of all pairs fell out at small (below min_side or min_megapixels): is that meant?"
    ]


def test_a_duplicate_stands_beside_what_it_duplicates(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "0.jpg")
    one = {"key": "b.png", "text": "again", "note": "", "image": "0.jpg"}
    twin = one | {"of": {"key": "a.png", "text": "once", "note": "", "image": "0.jpg"}}
    (tmp_path / "examples.json").write_text(json.dumps({"duplicate": [twin, one]}))
    report = {"source": "folder", "read": 4, "looked_at": 4, "kept": 2, "passed": 2, "causes": {}}
    page = render_filter_page(FilterSummary(report | {"fell": {"duplicate": 2}}, tmp_path))
    assert page.count("base64,") == 3 and "beside <code>a.png</code>, which it duplicates" in page
