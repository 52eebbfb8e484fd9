import copy

from reported import REPORT, estimate

from prunella.reporting.cost_tables import build_counted_table, build_measured_table, build_variant_table


def test_an_architecture_has_a_row_and_stages_share_it():
    assert build_counted_table(REPORT) == [
        ["model", "UNet parameters", "down", "mid", "up", "GMACs, convolutions and linear", "GMACs, attention too",
         "weights on disk, MB"],
        ["teacher", "8.77 M", "2.56 M", "0.99 M", "5.20 M", "0.0024", "0.0027", "21.5"],
        ["sd-tiny", "3.32 M", "0.87 M", "0.00 M", "2.43 M", "0.0014", "0.0016", "10.5"],
    ]  # fmt: skip


def test_columns_without_values_are_left_out():
    head, teacher, student = build_measured_table(REPORT)
    assert head == [
        "model", "a picture, ms, median", "95 %", "times as fast", "a UNet step, ms, median", "peak while drawing, MB",
        "peak while loading, MB",
    ]  # fmt: skip
    assert teacher[3] == "1.00 (1.00 to 1.00)" and student[1:4] == ["500", "550", "1.80 (1.70 to 1.90)"]


def test_other_ways_to_draw_have_a_row_each_and_architecture():
    report = copy.deepcopy(REPORT)
    assert build_variant_table(report) == []
    for name in ("sd-tiny/pruned", "sd-tiny/distilled"):
        report["models"][name]["variants"] = {"bf16 eager batch 4": {"latency_ms_p50": 90.0, "energy_j": 1234.5}}
    report["models"]["teacher"]["variants"] = {"bf16 eager batch 4": {"speedup": estimate(1, 1, 1, 7)}}
    assert build_variant_table(report) == [
        ["model", "a picture, ms, median", "times as fast", "energy a picture, J"],
        ["bf16 eager batch 4: teacher", "–", "1.00 (1.00 to 1.00)", "–"],
        ["bf16 eager batch 4: sd-tiny", "90", "–", "1,234.5"],
    ]
