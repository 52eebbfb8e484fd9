"""Whether a student's figures are good enough to be promoted, by the gates of section `promote`."""

import math
from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.params import Gate

# Unbiased estimates, which are below 0 where two models are alike: a ratio of them says nothing.
SIGNED_METRICS = ("kid", "latent_kid", "cmmd")


class GateResult(NamedTuple):
    """A gate, the figure that was compared, and by how much it is missed (0 where it holds)."""

    gate: Gate
    value: float
    shortfall: float

    @property
    def message(self) -> str:
        """The outcome in words: composition 0.172, 0.344 of the teacher's; at least 0.9 is asked: 0.556 short."""
        relative_text = " of the teacher's" if self.gate.relative_to_teacher else ""
        bounds = [f"at least {self.gate.min}"] if self.gate.min is not None else []
        bounds += [f"at most {self.gate.max}"] if self.gate.max is not None else []
        verdict_text = (
            f"{self.shortfall:.3g} {'short' if self._is_below_min else 'over'}" if self.shortfall else "holds"
        )
        return f"{self.gate.metric}: {self.value:.3g}{relative_text}, {' and '.join(bounds)} is asked: {verdict_text}"

    @property
    def _is_below_min(self) -> bool:
        return self.gate.min is not None and self.value < self.gate.min


def evaluate_gates(
    gates: list[Gate], student_metrics: dict[str, Any], teacher_metrics: dict[str, Any]
) -> list[GateResult]:
    """Each gate on the figures of a student and of its teacher (of reports/benchmark.json).

    Raises UserError for a figure that was not measured or is not finite, and for a ratio to the teacher's figure where
    that is not above 0 or where the metric can be below 0.
    """
    return [_evaluate_gate(gate, student_metrics, teacher_metrics) for gate in gates]


def _evaluate_gate(gate: Gate, student_metrics: dict[str, Any], teacher_metrics: dict[str, Any]) -> GateResult:
    value = get_metric_value(student_metrics, gate.metric)
    if gate.relative_to_teacher:
        teacher_value = get_metric_value(teacher_metrics, gate.metric)
        if gate.metric in SIGNED_METRICS:
            raise UserError(
                f"promote.gates: {gate.metric} can be below 0, so a ratio to the teacher's says nothing; set "
                "relative_to_teacher: false and a max"
            )
        if teacher_value <= 0:
            raise UserError(
                f"promote.gates: the teacher's {gate.metric} is {teacher_value:g}, and a ratio needs one above 0; set "
                "relative_to_teacher: false"
            )
        value /= teacher_value
    below_min = gate.min - value if gate.min is not None else 0.0
    above_max = value - gate.max if gate.max is not None else 0.0
    return GateResult(gate, value, max(below_min, above_max, 0.0))


def get_metric_value(metrics: dict[str, Any], name: str) -> float:
    """A figure's value, of an estimate with its interval too. Raises UserError, naming the others, where it is none."""
    values = numeric_metrics(metrics)
    if name not in values:
        raise UserError(f"promote.gates: {name} was not measured; there are {', '.join(sorted(values))}")
    if not math.isfinite(values[name]):
        raise UserError(f"promote.gates: {name} is {values[name]}, which is no finite number")
    return values[name]


def numeric_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Those of a model's figures that are one number, or an estimate with its interval (its value)."""
    values = {name: entry.get("value") if isinstance(entry, dict) else entry for name, entry in metrics.items()}
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
