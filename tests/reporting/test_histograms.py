import json

import pytest

from prunella.reporting.histograms import MAX_BINS, plot_sample_histograms


def kept(folder, pairs) -> None:
    names = ("width", "height", "text")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(dict(zip(names, p, strict=True))) + "\n" for p in pairs))


def test_a_bar_a_value_where_they_are_few(tmp_path):
    kept(tmp_path, [(40, 20, "a cat"), (20, 40, "a cat"), (30, 20, ["a black cat", "another"]), (30, 30, "cat")])
    found = plot_sample_histograms(tmp_path)
    bars = {name: (chart["data"][0]["x"], chart["data"][0]["y"]) for name, chart in found.items()}
    assert bars == {
        "shorter side, pixels": ([20, 30], [3, 1]),
        "longer side over shorter": ([1, 1.5, 2], [1, 1, 2]),
        "words in the caption": ([1, 2, 3], [1, 2, 1]),
    }


def test_what_is_the_same_for_all_pairs_has_no_chart(tmp_path):
    kept(tmp_path, [(64, 64, "a cat"), (64, 64, "black cat")])
    assert plot_sample_histograms(tmp_path) == {}


def test_many_values_share_bars(tmp_path):
    kept(tmp_path, [(100 + i, 5000, "a cat") for i in range(500)])
    bars = plot_sample_histograms(tmp_path)["shorter side, pixels"]["data"][0]
    assert len(bars["x"]) == MAX_BINS and sum(bars["y"]) == 500
    assert bars["x"][0] == pytest.approx(100 + 499 / MAX_BINS / 2, rel=0.01)
