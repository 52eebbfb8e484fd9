import copy

from reported import REPORT, estimate

from prunella.reporting.findings import (
    compute_gains,
    compute_quality_change,
    describe_paired_difference,
    format_student_sentence,
    select_main_metric,
    summarize_students,
)


def test_what_was_won_by_hand():
    assert [(each["word"], each["value"]) for each in compute_gains(REPORT, "sd-tiny")] == [
        ("UNet", "38 %"),
        ("on disk", "49 %"),
        ("speed", "1.80 ×"),
        ("memory", "50 %"),
    ]
    speed = compute_gains(REPORT, "sd-tiny")[2]["detail"]
    assert speed == "as fast (1.70 to 1.90 in 7 rounds): 500 instead of 900 ms a picture"
    busy = copy.deepcopy(REPORT)
    busy["models"]["sd-tiny/pruned"]["speedup"] = estimate(1.8, 0.9, 2.5, 7)
    assert compute_gains(busy, "sd-tiny")[2]["value"] == "unclear"  # not 1.80 ×
    assert compute_gains(busy, "sd-tiny")[2]["detail"].startswith(
        "1.80 × as fast (0.90 to 2.50 in 7 rounds), so no difference is"
    )
    assert "no difference in speed shown: 1.80 times (0.90 to 2.50);" in format_student_sentence(busy, "sd-tiny")


def test_what_was_lost_has_the_teacher_beside_it():
    found = compute_quality_change(REPORT, "sd-tiny", "composition")
    assert (found["title"], found["better"]) == ("composition", "higher")
    assert [(row["model"], row["text"]) for row in found["rows"]] == [
        ("teacher", "0.440 (0.380 to 0.500)"),
        ("pruned", "0.000 (0.000 to 0.060)"),
        ("distilled", "0.160 (0.090 to 0.260)"),
    ]
    assert [row["model"] for row in compute_quality_change(REPORT, "sd-tiny", "output_error")["rows"]] == [
        "pruned",
        "distilled",
    ]
    assert compute_quality_change(REPORT, "sd-tiny", "fid") is None


def test_the_sentence():
    assert format_student_sentence(REPORT, "sd-tiny") == (
        "sd-tiny: 38 % of the UNet, 49 % of the files, 1.80 times as fast (1.70 to 1.90); composition 0.160 "
        "(0.090 to 0.260) after 100 steps of distillation, the teacher 0.440 (0.380 to 0.500)."
    )
    assert [each["sentence"] for each in summarize_students(REPORT)] == [format_student_sentence(REPORT, "sd-tiny")]


def test_without_a_metric_the_sentence_is_of_the_output_error():
    bare = copy.deepcopy(REPORT)
    for entry in bare["models"].values():
        del entry["composition"]
    assert select_main_metric(REPORT) == "composition" and select_main_metric(bare) == "output_error"
    assert format_student_sentence(bare, "sd-tiny").endswith(
        "output error 0.060 (0.050 to 0.070) after 100 steps of distillation."
    )


def test_two_models_differ_only_where_the_paired_interval_has_no_zero():
    report = {"differences": {"a - b": {"composition": estimate(-0.2, -0.3, -0.1), "fid": estimate(-2, -3, 1)}}}
    assert (
        describe_paired_difference(report, "a - b", "composition") == "differs by -0.20 (-0.30 to -0.10), n = 64, worse"
    )
    assert describe_paired_difference(report, "a - b", "fid") == "no difference shown: -2.0 (-3.0 to 1.0), n = 64"
    report["differences"]["a - b"]["output_error"] = estimate(-0.2, -0.3, -0.1)
    assert describe_paired_difference(report, "a - b", "output_error").endswith("better")
    few = {"differences": {"a - b": {"fid": estimate(-2, -3, -1, 5) | {"different": False}}}}
    assert describe_paired_difference(few, "a - b", "fid").startswith(
        "no difference shown"
    )  # too few, whatever the interval
    assert describe_paired_difference(report, "b - a", "fid") == describe_paired_difference({}, "a - b", "fid") == ""


def test_what_fine_tuning_changed_is_told_on_its_words_and_on_the_rest():
    report = copy.deepcopy(REPORT)
    own, rest = estimate(0.3, 0.1, 0.5, 14), estimate(-0.1, -0.2, 0.1, 50)
    changed = {"composition": rest, "on_words": {"composition": own}, "on_rest": {"composition": rest, "fid": rest}}
    report["differences"]["sd-tiny/finetuned - sd-tiny/distilled"] = changed
    assert compute_quality_change(report, "sd-tiny", "composition")["tuned"] == [
        "on captions with its words: differs by 0.30 (0.10 to 0.50), n = 14, better",
        "on the other captions: no difference shown: -0.10 (-0.20 to 0.10), n = 50",
    ]
    assert (
        compute_quality_change(report, "sd-tiny", "output_error")["tuned"]
        == compute_quality_change(REPORT, "sd-tiny", "composition")["tuned"]
        == []
    )
