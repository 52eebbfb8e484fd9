"""The best choices of units under a budget: an exact integer program, solved again for each next best.

One program for each number of removed stages, since costs and fitting ends depend on it. Variables: for each stage one
for every way of thinning it and one for leaving it whole, for the end likewise, of which exactly one is 1; and one for
each transformer layer, which is 1 where it is gone though its attention is kept. Minimised is the sum of importances.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from prunella.planning.units import MID, End, Layer, Thin, Unit

Lacking = tuple[Unit, ...]
Cost = Callable[[Lacking], float]  # of the student that lacks these units; additive while no other stage is removed


class Choice(NamedTuple):
    """Units that a student lacks, and the sum of their importances."""

    lacking: Lacking
    predicted: float


def choose(
    units: Sequence[Unit], stages: int, importance: Mapping[Unit, float], cost: Cost, most: float, count: int
) -> list[Choice]:
    """The `count` choices of a cost of at most `most` whose units matter least, best first; fewer where there are.

    Importances span many powers of ten, and the solver's gap is absolute. So the first pass tells what matters at all,
    and in the second what alone exceeds that counts as twice as much.
    """
    programs = [Program(units, removed, stages, cost) for removed in removable(units)]
    worst = max(importance.values(), default=0.0)
    found: list[Choice] = []
    for _ in range(2):
        capped = {unit: min(value, 2 * worst) for unit, value in importance.items()}
        found = [choice for program in programs for choice in islice(program.best(capped, most), count)]
        found = [Choice(lacking, sum(importance[unit] for unit in lacking)) for lacking, _ in found]
        found = sorted(found, key=lambda choice: choice.predicted)[:count]
        if len(found) == count:
            worst = found[-1].predicted
    return found


def smallest(units: Sequence[Unit], stages: int, cost: Cost) -> Lacking:
    """The choice that costs least."""
    programs = [Program(units, removed, stages, cost) for removed in removable(units)]
    return min((next(program.cheapest()) for program in programs), key=cost)


def removable(units: Sequence[Unit]) -> list[int]:
    """Numbers of deepest stages that can be gone."""
    return sorted({0} | {unit.removed for unit in units if isinstance(unit, End)})


class Program:
    """The choices with one number of removed stages."""

    def __init__(self, units: Sequence[Unit], removed: int, stages: int, cost: Cost):
        self.cost, self.removed = cost, removed
        self.whole: Lacking = (End(removed, "keep"),) if removed else ()
        ends = [unit for unit in units if isinstance(unit, End) and unit.removed == removed]
        groups: list[list[Unit | None]] = [[*ends] if removed else [None, *ends]]
        for stage in range(stages - removed):
            groups.append([None, *(unit for unit in units if isinstance(unit, Thin) and unit.stage == stage)])
        self.options = [option for group in groups for option in group]
        layers = [unit for unit in units if isinstance(unit, Layer)]
        self.keeping = {layer.attention: self._keepers(groups, layer.attention, stages) for layer in layers}
        self.layers = [layer for layer in layers if self.keeping[layer.attention]]
        self.columns: list[Unit | None] = [*self.options, *self.layers]
        self.base = cost(self.whole)
        self.costs = np.array([self._extra(unit) for unit in self.columns])
        self.rules = [*self._one_of_each(groups), *self._layers_of_kept(), *self._mid_as_last_down(groups)]

    def best(self, importance: Mapping[Unit, float], most: float) -> Iterator[Choice]:
        """Choices of a cost of at most `most`, in the order of their importances' sums."""
        weights = np.array([importance[unit] if unit else 0.0 for unit in self.columns])
        for lacking in self._solutions(weights, most):
            if self.cost(lacking) <= most:  # the solver's tolerance lets pass what is a millionth above
                yield Choice(lacking, sum(importance[unit] for unit in lacking))

    def cheapest(self) -> Iterator[Lacking]:
        return self._solutions(self.costs, None)

    def _extra(self, unit: Unit | None) -> float:
        if unit is None:
            return 0.0
        return self.cost((unit,) if isinstance(unit, End) else (*self.whole, unit)) - self.base

    def _solutions(self, weights: np.ndarray, most: float | None) -> Iterator[Lacking]:
        rules = list(self.rules)
        if most is not None:
            scale = max(abs(most), 1.0)
            rules.append(LinearConstraint(self.costs / scale, ub=(most - self.base) / scale))
        scaled = weights / (np.abs(weights).max() or 1.0)
        whole_numbers, bounds = np.ones(len(scaled)), Bounds(0, 1)
        while True:
            solved = milp(
                scaled, integrality=whole_numbers, bounds=bounds, constraints=rules, options={"mip_rel_gap": 0}
            )
            if solved.x is None:
                return
            taken = np.round(solved.x) == 1
            units = [unit for unit, one in zip(self.columns, taken, strict=True) if one and unit]
            yield tuple(units)
            # Not this one again: some variable must differ.
            rules.append(LinearConstraint(np.where(taken, -1, 1), lb=1 - taken.sum()))

    def _row(self, entries: Mapping[int, float]) -> np.ndarray:
        row = np.zeros(len(self.columns))
        for column, value in entries.items():
            row[column] = value
        return row

    def _one_of_each(self, groups: list[list[Unit | None]]) -> Iterator[LinearConstraint]:
        start = 0
        for group in groups:
            yield LinearConstraint(self._row({start + i: 1 for i in range(len(group))}), lb=1, ub=1)
            start += len(group)

    def _keepers(self, groups: list[list[Unit | None]], attention: str, stages: int) -> list[int]:
        """Columns of the options that keep an attention."""
        flat = [(number, option) for number, group in enumerate(groups) for option in group]
        if attention == MID:
            kept = (None, End(self.removed, "keep"))
            return [column for column, (number, option) in enumerate(flat) if number == 0 and option in kept]
        way, place, _, pair = attention.replace("_blocks", "").split(".")
        stage = int(place) if way == "down" else stages - 1 - int(place)
        return [
            column
            for column, (number, option) in enumerate(flat)
            if number == stage + 1
            and (option is None or (isinstance(option, Thin) and option.keeps_attention(way, int(pair))))
        ]

    def _of(self, attention: str) -> list[int]:
        """Columns of an attention's layers."""
        start = len(self.options)
        return [start + i for i, layer in enumerate(self.layers) if layer.attention == attention]

    def _layers_of_kept(self) -> Iterator[LinearConstraint]:
        """A layer can be gone by itself only where its attention is kept, and not all of them."""
        for attention, keepers in self.keeping.items():
            columns = self._of(attention)
            for column in columns:
                yield LinearConstraint(self._row({column: 1} | dict.fromkeys(keepers, -1)), ub=0)
            if columns:
                fewer = len(columns) - 1
                yield LinearConstraint(self._row(dict.fromkeys(columns, 1) | dict.fromkeys(keepers, -fewer)), ub=0)

    def _mid_as_last_down(self, groups: list[list[Unit | None]]) -> Iterator[LinearConstraint]:
        """A kept mid block has as many layers as the first attention that is kept of the last down stage.

        diffusers' UNet has one number for both. Where the two are kept, both inequalities hold with room for nothing.
        """
        mid, last = self._of(MID), len(groups) - 2
        start = len(self.options) - len(groups[-1])
        for pair in range(len(mid) and 8):
            ours = self._of(f"down_blocks.{last}.attentions.{pair}")
            first = [start + i for i, option in enumerate(groups[-1]) if _first_attention(option) == pair]
            if not (ours and first):
                continue
            room, given = len(mid) + len(ours), dict.fromkeys([*first, *self.keeping[MID]], len(mid) + len(ours))
            for sign in (1, -1):
                row = self._row(given | dict.fromkeys(mid, sign) | dict.fromkeys(ours, -sign))
                yield LinearConstraint(row, ub=2 * room)


def _first_attention(option: Unit | None) -> int | None:
    """The first pair of a down stage that keeps its attention."""
    if option is None:
        return 0
    return option.down[0] if isinstance(option, Thin) and "down" not in option.plain else None
