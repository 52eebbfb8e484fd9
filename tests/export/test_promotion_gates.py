import pytest

from prunella.errors import UserError
from prunella.export.promotion_gates import evaluate_gates, get_metric_value
from prunella.params import Gate, validate_config

TEACHER = {
    "latency_ms_p50": 100.0,
    "composition": {"value": 0.5, "n": 64, "low": 0.4, "high": 0.6},
    "output_error": 0.0,
}
STUDENT = {
    "latency_ms_p50": 64.0,
    "composition": {"value": 0.25, "n": 64, "low": 0.2, "high": 0.4},
    "output_error": 0.1,
}


def gate(figure: str, least: float | None = None, most: float | None = None, of_teacher: bool = False) -> Gate:
    return Gate(metric=figure, min=least, max=most, relative_to_teacher=of_teacher)


def test_a_gate_says_by_how_much_it_is_missed():
    slow, good, weak = evaluate_gates(
        [
            gate("latency_ms_p50", most=0.6, of_teacher=True),
            gate("output_error", most=0.1),
            gate("composition", least=0.75, of_teacher=True),
        ],
        STUDENT,
        TEACHER,
    )
    assert slow.shortfall == pytest.approx(0.04) and slow.message.endswith("at most 0.6 is asked: 0.04 over")
    assert good.shortfall == 0 and good.message == "output_error: 0.1, at most 0.1 is asked: holds"
    assert weak.shortfall == pytest.approx(0.25)
    assert weak.message == "composition: 0.5 of the teacher's, at least 0.75 is asked: 0.25 short"


def test_what_was_not_measured_is_named():
    with pytest.raises(UserError, match=r"clip was not measured; there are composition, latency_ms_p50, output_error"):
        get_metric_value(STUDENT, "clip")
    with pytest.raises(UserError, match="output_error is 0, and a ratio needs one above 0"):
        evaluate_gates([gate("output_error", most=2, of_teacher=True)], STUDENT, TEACHER)


@pytest.mark.parametrize("teacher_value", [-0.0197, 0.0001])
@pytest.mark.parametrize("metric", ["kid", "latent_kid", "cmmd"])
def test_a_ratio_of_a_figure_that_can_be_below_0_is_refused(metric, teacher_value):
    """By division, 0.234 of a just pruned student is -11.9 of a teacher's -0.0197, and "at most 1.5" held."""
    with pytest.raises(UserError, match=f"{metric} can be below 0"):
        evaluate_gates([gate(metric, most=1.5, of_teacher=True)], {metric: 0.234}, {metric: teacher_value})
    (absolute,) = evaluate_gates([gate(metric, most=0.1)], {metric: 0.234}, {metric: teacher_value})
    assert absolute.shortfall == pytest.approx(0.134)


def test_any_other_figure_below_0_or_not_finite_is_refused():
    with pytest.raises(UserError, match="teacher's pick_score is -2"):
        evaluate_gates([gate("pick_score", least=0.9, of_teacher=True)], {"pick_score": 1.0}, {"pick_score": -2.0})
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="no finite number"):
            evaluate_gates([gate("composition", least=0.9)], {"composition": value}, {})


def test_a_gate_that_asks_for_nothing_or_for_too_much_is_refused():
    with pytest.raises(UserError, match="asks for nothing"):
        validate_config(
            Gate, {"metric": "composition", "min": None, "max": None, "relative_to_teacher": True}, "params.yaml"
        )
    with pytest.raises(UserError, match=r"min 0\.9 is above its max 0\.6"):
        validate_config(
            Gate, {"metric": "composition", "min": 0.9, "max": 0.6, "relative_to_teacher": True}, "params.yaml"
        )
