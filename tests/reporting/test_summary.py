from prunella.reporting.summary import claims, headline, rows, text

SHARE = {"value": 0.5, "n": 10, "low": 0.24, "high": 0.76}
REPORT = {
    "models": {
        "teacher": {
            "params": 8_000_000,
            "latency_ms_p50": 900.4,
            "output_error": 0.0,
            "composition": SHARE,
            "frechet": 0.125,
        },
        "sd-tiny/pruned": {"params": 2_000_000, "latency_ms_p50": 400.0, "output_error": 0.51234567},
        "sd-tiny/distilled": {"params": 2_000_000, "latency_ms_p50": 400.0, "output_error": 0.01, "composition": SHARE},
    },
    "frechet_floor": {"value": 0.03125, "pictures": 3, "against": 4},
}


def test_rows_by_hand():
    assert rows(REPORT)[1:] == [
        ["teacher", "8.00 M", "100.0 %", "900", "0.0000", "0.50 (0.24–0.76)", "0.125"],
        ["sd-tiny/pruned", "2.00 M", "25.0 %", "400", "0.5123", "–", "–"],
        ["sd-tiny/distilled", "2.00 M", "25.0 %", "400", "0.0100", "0.50 (0.24–0.76)", "–"],
        ["real pictures", "", "", "", "", "", "0.031"],
    ]
    assert len(rows({"models": REPORT["models"]})) == 4


def test_the_table_is_aligned():
    lines = text(REPORT).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert lines[0].startswith("model ") and lines[1].endswith("0.50 (0.24–0.76)    0.125")


def test_the_figures_to_compare_runs_by():
    assert headline(REPORT) == {
        "teacher": {"params_m": 8.0, "latency_ms": 900.4, "score": 0.5},
        "sd-tiny": {
            "params_m": 2.0,
            "latency_ms": 400.0,
            "output_error_pruned": 0.51235,
            "output_error_distilled": 0.01,
            "score_distilled": 0.5,
        },
    }


def test_claims_have_a_column_each():
    by = {"count": SHARE, "relation": SHARE | {"value": 1.0, "high": 1.0}}
    models = {"a": {"composition_by": by}, "b": {"composition_by": {"count": SHARE}}, "c": {}}
    assert claims({"models": models}) == [
        ["claim true in", "count", "relation"],
        ["a", "0.50 (0.24–0.76)", "1.00 (0.24–1.00)"],
        ["b", "0.50 (0.24–0.76)", "–"],
    ]
    assert claims({"models": {"c": {}}}) == []
