import pytest

from prunella.reporting.summary import (
    build_breakdown_tables,
    build_difference_breakdown_tables,
    build_difference_table,
    build_quality_table,
    build_summary_table,
    extract_headline,
    format_estimate,
    format_summary_text,
)

SHARE = {"value": 0.5, "n": 10, "low": 0.24, "high": 0.76}
KID = {"value": -0.0012, "n": 64, "low": -0.0061, "high": 0.0037}
ERROR = {"value": 0.01, "n": 7, "low": 0.008, "high": 0.0121}
REPORT = {
    "models": {
        "teacher": {
            "params": 8_000_000,
            "latency_ms_p50": 900.4,
            "output_error": 0.0,
            "output_error_estimate": {"value": 0.0, "n": 7, "low": 0.0, "high": 0.0},
            "composition": SHARE,
            "latent_kid": KID,
        },
        "sd-tiny/pruned": {"params": 2_000_000, "latency_ms_p50": 400.0, "output_error": 0.51234567},
        "sd-tiny/distilled": {
            "params": 2_000_000,
            "latency_ms_p50": 400.0,
            "output_error": 0.01,
            "output_error_estimate": ERROR,
            "composition": SHARE,
        },
    },
    "floors": {"latent_kid": KID},
    "differences": {"sd-tiny/distilled - sd-tiny/pruned": {"output_error": ERROR | {"value": -0.5}}},
}


def test_rows_by_hand():
    assert build_summary_table(REPORT) == [
        [
            "model", "UNet parameters", "of the teacher's UNet", "latency, ms", "output error, n = 7",
            "composition, n = 10", "latent KID, n = 64",
        ],
        ["teacher", "8.00 M", "100.0 %", "900", "0.0000", "0.50 (0.24 to 0.76)", "-0.0012 (-0.0061 to 0.0037)"],
        ["sd-tiny, pruned", "2.00 M", "25.0 %", "400", "–", "–", "–"],
        ["sd-tiny, distilled", "2.00 M", "25.0 %", "400", "0.0100 (0.0080 to 0.0121)", "0.50 (0.24 to 0.76)", "–"],
        ["real pictures", "", "", "", "–", "–", "-0.0012 (-0.0061 to 0.0037)"],
    ]  # fmt: skip


def test_numbers_of_observations_that_differ_stand_in_the_cells():
    models = {"teacher": {"fid": SHARE}, "a/pruned": {"fid": SHARE | {"n": 1234}}}
    assert [line[-1] for line in build_quality_table({"models": models})] == [
        "FID", "0.50 (0.24 to 0.76), n = 10", "0.50 (0.24 to 0.76), n = 1,234"
    ]  # fmt: skip


def test_metrics_without_values_have_no_column():
    bare = {name: {k: v for k, v in entry.items() if k != "latent_kid"} for name, entry in REPORT["models"].items()}
    found = build_summary_table({"models": bare})
    assert found[0][-1] == "composition, n = 10" and len(found) == 4


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.24, 0.76, "0.50 (0.24 to 0.76)"), (0.499, 0.502, "0.5000 (0.4990 to 0.5020)"), (-30, 31, "0 (-30 to 31)")],
)
def test_digits_follow_the_interval(low, high, expected):
    assert format_estimate({"value": 0.5, "n": 3, "low": low, "high": high}) == expected


def test_the_table_is_aligned():
    lines = format_summary_text(REPORT).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert lines[0].startswith("model ") and lines[1].endswith("-0.0012 (-0.0061 to 0.0037)")


def test_the_figures_to_compare_runs_by():
    assert extract_headline(REPORT) == {
        "teacher": {"params_m": 8.0, "latency_ms": 900.4, "composition": 0.5, "latent_kid": -0.0012},
        "sd-tiny": {
            "params_m": 2.0,
            "latency_ms": 400.0,
            "output_error_pruned": 0.51235,
            "output_error_distilled": 0.01,
            "composition_distilled": 0.5,
        },
    }


def test_parts_have_a_table_a_metric_and_a_column_each():
    by = {"count": SHARE, "relation": SHARE | {"value": 1.0, "high": 1.0}}
    a, b = {"composition": SHARE, "composition_by": by}, {"composition": SHARE, "composition_by": {"count": SHARE}}
    models = {"a": a, "b/finetuned": b, "c": {"disk_mb_by": {"unet": 1.0}}}
    found = build_breakdown_tables({"models": models})
    assert [caption.split(":")[0] for caption in found] == ["Composition by claim"]
    assert list(found.values()) == [
        [
            ["model", "count", "relation"],
            ["a", "0.50 (0.24 to 0.76)", "1.00 (0.24 to 1.00)"],
            ["b, fine-tuned", "0.50 (0.24 to 0.76)", "–"],
        ]
    ]
    assert build_breakdown_tables({"models": {"c": {}}}) == {}
    own = {"soft_tifa": SHARE, "soft_tifa_by": {"atoms": SHARE}}
    assert next(iter(build_breakdown_tables({"models": {"a": own}}))).startswith("Soft-TIFA by skill: ")


def test_paired_differences_have_a_row_each():
    assert build_difference_table(REPORT) == [
        ["paired difference", "output error"],
        ["sd-tiny, distilled − sd-tiny, pruned", "-0.5000 (0.0080 to 0.0121)"],
    ]
    assert build_difference_table({"models": {}}) == []


def test_a_rounded_zero_has_no_sign():
    assert format_estimate({"value": -0.001, "n": 3, "low": -0.2, "high": 0.2}) == "0.00 (-0.20 to 0.20)"


def test_differences_by_part_have_a_table_of_their_own():
    by = {"0-499": ERROR, "500-999": ERROR | {"value": 0.0101}}
    report = {"differences": {"a/distilled - teacher": {"output_error": ERROR, "output_error_by": by}}}
    assert build_difference_table(report)[0] == ["paired difference", "output error"]
    assert build_difference_breakdown_tables(report) == {
        "Paired difference of output error by timesteps": [
            ["paired difference", "0-499", "500-999"],
            ["a, distilled − teacher", "0.0100 (0.0080 to 0.0121)", "0.0101 (0.0080 to 0.0121)"],
        ]
    }
    assert build_difference_breakdown_tables({"differences": {"a - b": {"output_error": ERROR}}}) == {}


def test_differences_over_some_pairs_are_lines_of_their_own():
    report = {"differences": {"a/finetuned - a/distilled": {"fid": SHARE, "on_words": {"fid": ERROR}, "on_rest": {}}}}
    assert build_difference_table(report) == [
        ["paired difference", "FID"],
        ["a, fine-tuned − a, distilled", "0.50 (0.24 to 0.76)"],
        ["a, fine-tuned − a, distilled, on captions with its words", "0.0100 (0.0080 to 0.0121)"],
        ["a, fine-tuned − a, distilled, on the other captions", "–"],
    ]
