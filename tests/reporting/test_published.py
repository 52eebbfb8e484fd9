import copy

from reported import REPORT, estimate

from prunella.pruning.plan import STUDENTS
from prunella.reporting.published import (
    build_published_quality_table,
    compare_published_sizes,
    compare_published_speeds,
    read_published_figures,
)


def test_published_figures_are_of_students_that_there_are():
    named = {
        name
        for row in read_published_figures()["quality"]["rows"] + read_published_figures()["speed"]
        for name in row["students"]
    }
    assert named and named <= set(STUDENTS)


def test_a_published_ratio_is_that_of_its_figures():
    for teacher, row in [(3.23, "SSD-1B"), (3.23, "Segmind-Vega")]:
        found = next(each for each in read_published_figures()["speed"] if each["model"] == row)
        assert abs(teacher / float(found["figure"].split()[0]) - found["times"]) < 0.006


def test_ours_stands_beside_those_of_the_same_architecture():
    assert compare_published_sizes(REPORT) == [
        {"model": "SD v1.4", "theirs": "0.86 B", "ours": "–"},
        {"model": "BK-SDM-Tiny", "theirs": "0.33 B, 38 % of 0.86 B", "ours": "sd-tiny: 38 %"},
        {"model": "BK-SDM-Tiny-2M", "theirs": "0.33 B, 38 % of 0.86 B", "ours": "sd-tiny: 38 %"},
    ]
    found = [(row["model"], row["times"], row["ours"]) for row in compare_published_speeds(REPORT)]
    assert found == [("SD 1.5", "1.00 ×", "–"), ("SD-Tiny", "1.82 ×", "sd-tiny: 1.80 (1.70 to 1.90) ×")]


def test_our_quality_stands_under_theirs_only_by_their_protocol():
    report = copy.deepcopy(REPORT)
    report["models"]["sd-tiny/distilled"]["fid"] = estimate(20, 19, 21, 30_000)
    theirs = [row[0] for row in build_published_quality_table(report)]
    assert theirs == ["model", "SD v1.4", "BK-SDM-Tiny", "BK-SDM-Tiny-2M"]
    report["settings"]["protocol"] = "bk-sdm"
    assert build_published_quality_table(report)[4:] == [["ours: sd-tiny, distilled", "20.0 (19.0 to 21.0)", "–", "–"]]


def test_of_a_student_of_ones_own_nothing_was_published():
    models = {name.replace("sd-tiny", "my-own"): entry for name, entry in REPORT["models"].items()}
    report = REPORT | {"models": models}
    assert (
        compare_published_sizes(report)
        == compare_published_speeds(report)
        == build_published_quality_table(report)
        == []
    )


def test_a_size_that_only_the_plan_states_is_shown_with_its_source():
    models = {name.replace("sd-tiny", "ssd-1b"): entry for name, entry in REPORT["models"].items()}
    report = REPORT | {"models": models}
    assert compare_published_sizes(report) == [
        {"model": "SSD-1B", "theirs": "1.3 B (arXiv 2401.02677)", "ours": "ssd-1b: 38 %"}
    ]
    assert [row["model"] for row in compare_published_speeds(report)] == [
        "SDXL",
        "SSD-1B",
    ] and build_published_quality_table(report) == []
