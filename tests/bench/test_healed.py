import pytest

from prunella.bench.healed import build_healing_table, estimate_fraction_of_teacher

TEACHER = {
    "student": "teacher", "seed": 0, "step": 0, "settings": "a", "verdicts": "1100" * 50,
    "composition": {"value": 0.5, "n": 4, "low": 0.15, "high": 0.85}, "kid": {"value": 0.01},
}  # fmt: skip


def row(seed, step, output, verdicts=None, settings="a"):
    drawn = {"verdicts": verdicts * 50, "kid": {"value": 0.1 * (seed + 1)}} if verdicts else {}
    return {"student": "sd-tiny", "seed": seed, "step": step, "settings": settings, "output": output} | drawn


def test_a_share_of_the_teachers_composition_by_hand():
    assert estimate_fraction_of_teacher(["1000" * 50], ["1100" * 50]).value == 0.5
    assert (
        estimate_fraction_of_teacher(["1000" * 50, "1110" * 50], ["1100" * 50] * 2).value == 1.0
    )  # 1 and 3 of 4, 2 of 4 the teacher's
    none = estimate_fraction_of_teacher(["0000" * 50], ["1100" * 50])
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_the_interval_is_over_prompts_and_holds_what_goes_together():
    teacher = "10" * 200
    same = estimate_fraction_of_teacher([teacher], [teacher])
    assert (same.value, same.low, same.high) == (1, 1, 1)  # right where the teacher is: no resample differs
    half = estimate_fraction_of_teacher(["1000" * 100], [teacher])
    assert (
        half.value == 0.5 and half.low == pytest.approx(0.43, abs=0.02) and half.high == pytest.approx(0.57, abs=0.02)
    )


def test_the_table_puts_seeds_together_and_leaves_what_was_not_drawn_empty():
    rows = [TEACHER, row(0, 1000, 0.02, "1000"), row(1, 1000, 0.03, "1110"), row(0, 300, 0.05)]
    assert build_healing_table(rows)[1:] == [
        ["teacher", "", "", "0", "0.0100", "0.50 (0.15 to 0.85)", "1"],
        ["sd-tiny", "300", "1", "0.0500", "", "", ""],
        ["sd-tiny", "1,000", "2", "0.0200–0.0300", "0.100–0.200", "0.500", build_healing_table(rows)[3][6]],
    ]
    assert build_healing_table(rows)[3][6].startswith("1.00 (")


def test_every_seed_has_the_teacher_of_its_own_settings():
    other = TEACHER | {"settings": "b", "verdicts": "1111" * 50}
    rows = [TEACHER, other, row(0, 1000, 0.02, "1000"), row(1, 1000, 0.03, "1110", settings="b")]
    assert build_healing_table(rows)[2][6].startswith("0.67 (")  # 1 and 3 of 4, the teacher's 2 and 4
    assert len(build_healing_table(rows)) == 3
