from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError
from reported import REPORT, cards, filtered

from prunella.pruning.plan import SHIPPED_PLANS, read_plan
from prunella.reporting.charts import plot_training_curves
from prunella.reporting.html_report import render_report_page, tabulate_chart
from prunella.reporting.plan_svg import render_plan_svg
from prunella.reporting.render import load_asset, render_page

BARS = {"type": "bar", "name": "pairs", "x": [48, 64], "y": [1, 2]}
HISTOGRAM = {"data": [BARS], "layout": {"xaxis": {"title": {"text": "shorter side, pixels"}}}}
VOID = ("meta", "img", "link", "br", "input", "path", "rect")


def whole(tmp_path, **changes) -> str:
    for training in ("distill", "finetune"):
        folder = tmp_path / "curves" / training / "sd-tiny"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
        (folder / "heldout.csv").write_text("step,loss,task\n0,1,0.5\n2,1,0.125\n")
    parts = {
        "plans": {"sd-tiny": render_plan_svg(read_plan(SHIPPED_PLANS / "sd-tiny.yaml"))},
        "cards": cards(),
        "curves": plot_training_curves(tmp_path / "curves", ["sd-tiny"]),
        "training_images": {"distill/sd-tiny": [(0, "data:,"), (2000, "data:,")]},
        "histograms": {"shorter side, pixels": HISTOGRAM},
        "filter_summary": filtered(tmp_path),
    }
    return render_report_page(REPORT, **parts | changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return whole(tmp_path_factory.mktemp("page"))


def elements(text: str) -> list[tuple[str, dict]]:
    found: list[tuple[str, dict]] = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    Elements().feed(text)
    return found


def test_what_was_won_and_lost_comes_first(text):
    head = text[: text.index('id="tradeoffs"')]
    for part in (
        ">38 %<",
        "3.32 of 8.77",
        ">49 %<",
        "10.5 of 21.5 MB",
        "1.80 ×",
        "1.70 to 1.90 in 7 rounds",
        "composition",
    ):
        assert part in head


def test_the_page_holds_everything(text):
    for part in (
        "a &lt;large&gt; disc",
        "down 3",
        "Inception score",
        "30.09",
        "Students of a-teacher",
        "python 3.11",
        "0123456789",
        "a-run",
        "latent Fréchet distance: 3 &lt; 640 pictures",
        "The safety checker is left out",
        "Distillation: held-out task error",
        "small",
        "after 2,000 steps",
        "Histogram of the kept pairs: shorter side",
    ):
        assert part in text, part


def test_the_page_asks_nobody_for_anything(text):
    assert not [tag for tag, named in elements(text) if tag in ("link", "script") and "src" in named]
    addresses = [
        named.get("src") or named.get("href") for tag, named in elements(text) if tag in ("img", "link", "script")
    ]
    assert all(address.startswith("data:") for address in addresses if address)
    assert "@import" not in text and "url(" not in load_asset("style.css")


def test_captions_are_escaped_wherever_they_stand(text):
    assert "<large>" not in text  # neither in markup nor in the data of the scripts


def test_the_page_is_well_nested(text):
    nested: list[str] = []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in VOID:
                nested.append(tag)

        def handle_endtag(self, tag):
            if tag not in VOID:
                assert nested.pop() == tag, self.getpos()

    Nesting().feed(text)
    assert nested == []


def test_every_picture_and_chart_has_words_for_who_does_not_see_it(text):
    found = elements(text)
    assert all("alt" in named for tag, named in found if tag == "img")
    assert all(named.get("aria-label") for _, named in found if "plot" in named.get("class", "").split())
    assert 'alt="sd-tiny, distilled: not kept: shape"' in text
    assert ("html", {"lang": "en"}) in found and any(named.get("name") == "viewport" for _, named in found)


def test_every_label_and_link_within_the_page_leads_somewhere(text):
    found = elements(text)
    there = {named["id"] for _, named in found if "id" in named}
    wanted = [named["for"] for tag, named in found if tag == "label"]
    wanted += [named["href"][1:] for tag, named in found if tag == "a" and named["href"].startswith("#")]
    assert set(wanted) <= there and len(wanted) > 10


def test_claims_have_no_controls_where_captions_make_none(tmp_path):
    bare = cards()
    for card in bare:
        card["claims"] = []
    text = whole(tmp_path, cards=bare)
    assert 'id="wall-filter"' not in text and 'id="wall-order"' in text and "all claims kept" not in text


def test_a_charts_values_are_few_and_the_last_is_among_them():
    line = {"name": "a", "x": list(range(31)), "y": [x / 2 for x in range(31)]}
    cells = tabulate_chart({"data": [line], "layout": {"xaxis": {"title": {"text": "step"}}}})
    assert cells[0] == ["step", "a"] and cells[1] == ["0", "0"] and cells[-1] == ["30", "15"] and len(cells) <= 14


def test_what_is_missing_is_no_empty_place():
    with pytest.raises(UndefinedError, match="filtered"):
        render_page("filter.html.j2")


def test_pictures_of_no_model_are_needed(tmp_path):
    assert np.isfinite(len(whole(tmp_path, cards=[])))
