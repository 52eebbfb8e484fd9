"""Whether a student's figures are good enough to be promoted, by the gates of section `promote`."""

from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.params import Gate


class Outcome(NamedTuple):
    """A gate, the figure that was compared, and by how much it is missed (0 where it holds)."""

    gate: Gate
    value: float
    missed: float

    @property
    def said(self) -> str:
        """The outcome in words: composition 0.172, 0.344 of the teacher's; at least 0.9 is asked: 0.556 short."""
        of = " of the teacher's" if self.gate.of_teacher else ""
        bounds = [f"at least {self.gate.min}"] if self.gate.min is not None else []
        bounds += [f"at most {self.gate.max}"] if self.gate.max is not None else []
        end = f"{self.missed:.3g} {'short' if self._low else 'over'}" if self.missed else "holds"
        return f"{self.gate.figure}: {self.value:.3g}{of}, {' and '.join(bounds)} is asked: {end}"

    @property
    def _low(self) -> bool:
        return self.gate.min is not None and self.value < self.gate.min


def outcomes(gates: list[Gate], student: dict[str, Any], teacher: dict[str, Any]) -> list[Outcome]:
    """Each gate on the figures of a student and of its teacher (of reports/benchmark.json).

    Raises UserError for a figure that was not measured, and for a share of a teacher's figure that is 0.
    """
    return [_outcome(gate, student, teacher) for gate in gates]


def _outcome(gate: Gate, student: dict[str, Any], teacher: dict[str, Any]) -> Outcome:
    value = number(student, gate.figure)
    if gate.of_teacher:
        whole = number(teacher, gate.figure)
        if whole == 0:
            raise UserError(f"promote.gates: the teacher's {gate.figure} is 0, so that there is no share of it")
        value /= whole
    low = gate.min - value if gate.min is not None else 0.0
    high = value - gate.max if gate.max is not None else 0.0
    return Outcome(gate, value, max(low, high, 0.0))


def number(figures: dict[str, Any], name: str) -> float:
    """A figure's value, of an estimate with its interval too. Raises UserError, naming the others, where it is none."""
    known = numbers(figures)
    if name not in known:
        raise UserError(f"promote.gates: {name} was not measured; there are {', '.join(sorted(known))}")
    return known[name]


def numbers(figures: dict[str, Any]) -> dict[str, float]:
    """Those of a model's figures that are one number, or an estimate with its interval (its value)."""
    values = {name: found.get("value") if isinstance(found, dict) else found for name, found in figures.items()}
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
