import copy

from reported import REPORT

from prunella.reporting.caveats import list_caveats


def test_limits_are_of_this_run():
    said = " ".join(list_caveats(REPORT))
    assert "safety checker is left out" in said and "of 7 rounds" in said and "of a CPU" in said
    assert "Composition is of 64 pictures, so that of the teacher is known to ± 0.06" in said
    assert "miniature" not in said
    other = copy.deepcopy(REPORT)
    other["teacher"]["source"], other["hardware"]["device"], other["settings"]["latency_rounds"] = "bundled", "cuda", 50
    said = " ".join(list_caveats(other))
    assert "bundled miniature" in said and "of a CPU" not in said and "rounds" not in said


def test_a_teacher_that_is_a_student_is_said():
    assert "itself a student" not in " ".join(list_caveats(REPORT))
    small = copy.deepcopy(REPORT)
    small["teacher"]["layout"] = "bk-sdm-base"
    assert "The teacher is itself a student, of the layout of bk-sdm-base." in " ".join(list_caveats(small))


def test_a_machine_that_was_busy_is_said():
    assert "had other work" not in " ".join(list_caveats(REPORT))
    busy = copy.deepcopy(REPORT)
    busy["models"]["sd-tiny/pruned"]["latency_ms_p95"] = 1250.0
    assert "up to 2.5 times its median latency" in " ".join(list_caveats(busy))


def test_pictures_that_no_network_has_looked_at_are_said():
    assert "No network has looked at the pictures" in " ".join(list_caveats(REPORT))
    seen = copy.deepcopy(REPORT)
    seen["models"]["teacher"]["clip_score"] = {"value": 0.3, "n": 64, "low": 0.29, "high": 0.31}
    assert "No network" not in " ".join(list_caveats(seen))
