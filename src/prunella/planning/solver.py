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

from prunella.planning.units import MID_ATTENTION, DropDeepest, DropLayer, ThinStage, Unit

RemovedUnits = tuple[Unit, ...]
CostFunction = Callable[
    [RemovedUnits], float
]  # of the student that lacks these units; additive while no other stage is removed


class Candidate(NamedTuple):
    """Units that a student lacks, and the sum of their importances."""

    removed_units: RemovedUnits
    predicted_error: float


def solve_candidates(
    units: Sequence[Unit],
    num_stages: int,
    importance: Mapping[Unit, float],
    cost: CostFunction,
    budget: float,
    count: int,
) -> list[Candidate]:
    """The `count` choices of a cost of at most `budget` whose units matter least, best first; fewer where there are.

    Importances span many powers of ten, and the solver's gap is absolute. Therefore the first pass tells what matters
    at all, and in the second what alone exceeds that counts as twice as much.
    """
    programs = [Milp(units, num_removed, num_stages, cost) for num_removed in removable_levels(units)]
    max_relevant_error = max(importance.values(), default=0.0)
    candidates: list[Candidate] = []
    for _ in range(2):
        capped = {unit: min(value, 2 * max_relevant_error) for unit, value in importance.items()}
        candidates = [
            candidate for program in programs for candidate in islice(program.iter_candidates(capped, budget), count)
        ]
        candidates = [
            Candidate(removed_units, sum(importance[unit] for unit in removed_units)) for removed_units, _ in candidates
        ]
        candidates = sorted(candidates, key=lambda candidate: candidate.predicted_error)[:count]
        if len(candidates) == count:
            max_relevant_error = candidates[-1].predicted_error
    return candidates


def find_smallest_student(units: Sequence[Unit], num_stages: int, cost: CostFunction) -> RemovedUnits:
    """The choice that costs least."""
    programs = [Milp(units, num_removed, num_stages, cost) for num_removed in removable_levels(units)]
    return min((next(program.iter_cheapest()) for program in programs), key=cost)


def removable_levels(units: Sequence[Unit]) -> list[int]:
    """Numbers of deepest stages that can be gone."""
    return sorted({0} | {unit.num_removed for unit in units if isinstance(unit, DropDeepest)})


class Milp:
    """The choices with one number of removed stages."""

    def __init__(self, units: Sequence[Unit], num_removed: int, num_stages: int, cost: CostFunction):
        self.cost, self.num_removed = cost, num_removed
        self.base_units: RemovedUnits = (DropDeepest(num_removed, "keep"),) if num_removed else ()
        drop_options = [unit for unit in units if isinstance(unit, DropDeepest) and unit.num_removed == num_removed]
        groups: list[list[Unit | None]] = [[*drop_options] if num_removed else [None, *drop_options]]
        for stage in range(num_stages - num_removed):
            groups.append([None, *(unit for unit in units if isinstance(unit, ThinStage) and unit.stage == stage)])
        self.options = [option for group in groups for option in group]
        layers = [unit for unit in units if isinstance(unit, DropLayer)]
        self.keeper_columns = {
            layer.attention: self._find_keepers(groups, layer.attention, num_stages) for layer in layers
        }
        self.layers = [layer for layer in layers if self.keeper_columns[layer.attention]]
        self.columns: list[Unit | None] = [*self.options, *self.layers]
        self.base_cost = cost(self.base_units)
        self.costs = np.array([self._marginal_cost(unit) for unit in self.columns])
        self.constraints = [
            *self._choose_one_per_group(groups),
            *self._require_kept_attention(),
            *self._tie_mid_to_last_down(groups),
        ]

    def iter_candidates(self, importance: Mapping[Unit, float], budget: float) -> Iterator[Candidate]:
        """Choices of a cost of at most `budget`, in the order of their importances' sums."""
        weights = np.array([importance[unit] if unit else 0.0 for unit in self.columns])
        for removed_units in self._iter_solutions(weights, budget):
            if self.cost(removed_units) <= budget:  # the solver's tolerance lets pass what is a millionth above
                yield Candidate(removed_units, sum(importance[unit] for unit in removed_units))

    def iter_cheapest(self) -> Iterator[RemovedUnits]:
        return self._iter_solutions(self.costs, None)

    def _marginal_cost(self, unit: Unit | None) -> float:
        if unit is None:
            return 0.0
        return self.cost((unit,) if isinstance(unit, DropDeepest) else (*self.base_units, unit)) - self.base_cost

    def _iter_solutions(self, weights: np.ndarray, budget: float | None) -> Iterator[RemovedUnits]:
        constraints = list(self.constraints)
        if budget is not None:
            scale = max(abs(budget), 1.0)
            constraints.append(LinearConstraint(self.costs / scale, ub=(budget - self.base_cost) / scale))
        scaled = weights / (np.abs(weights).max() or 1.0)
        integrality, bounds = np.ones(len(scaled)), Bounds(0, 1)
        while True:
            solution = milp(
                scaled, integrality=integrality, bounds=bounds, constraints=constraints, options={"mip_rel_gap": 0}
            )
            if solution.x is None:
                return
            selected = np.round(solution.x) == 1
            units = [unit for unit, is_selected in zip(self.columns, selected, strict=True) if is_selected and unit]
            yield tuple(units)
            # Not this one again: some variable must differ.
            constraints.append(LinearConstraint(np.where(selected, -1, 1), lb=1 - selected.sum()))

    def _make_row(self, entries: Mapping[int, float]) -> np.ndarray:
        row = np.zeros(len(self.columns))
        for column, value in entries.items():
            row[column] = value
        return row

    def _choose_one_per_group(self, groups: list[list[Unit | None]]) -> Iterator[LinearConstraint]:
        start = 0
        for group in groups:
            yield LinearConstraint(self._make_row({start + i: 1 for i in range(len(group))}), lb=1, ub=1)
            start += len(group)

    def _find_keepers(self, groups: list[list[Unit | None]], attention: str, num_stages: int) -> list[int]:
        """Columns of the options that keep an attention."""
        numbered_options = [(number, option) for number, group in enumerate(groups) for option in group]
        if attention == MID_ATTENTION:
            keeping_options = (None, DropDeepest(self.num_removed, "keep"))
            return [
                column
                for column, (number, option) in enumerate(numbered_options)
                if number == 0 and option in keeping_options
            ]
        direction, block_index, _, kept_block = attention.replace("_blocks", "").split(".")
        stage = int(block_index) if direction == "down" else num_stages - 1 - int(block_index)
        return [
            column
            for column, (number, option) in enumerate(numbered_options)
            if number == stage + 1
            and (
                option is None or (isinstance(option, ThinStage) and option.keeps_attention(direction, int(kept_block)))
            )
        ]

    def _layer_columns(self, attention: str) -> list[int]:
        """Columns of an attention's layers."""
        start = len(self.options)
        return [start + i for i, layer in enumerate(self.layers) if layer.attention == attention]

    def _require_kept_attention(self) -> Iterator[LinearConstraint]:
        """A layer can be gone by itself only where its attention is kept, and not all of them."""
        for attention, keepers in self.keeper_columns.items():
            columns = self._layer_columns(attention)
            for column in columns:
                yield LinearConstraint(self._make_row({column: 1} | dict.fromkeys(keepers, -1)), ub=0)
            if columns:
                max_removed = len(columns) - 1
                yield LinearConstraint(
                    self._make_row(dict.fromkeys(columns, 1) | dict.fromkeys(keepers, -max_removed)), ub=0
                )

    def _tie_mid_to_last_down(self, groups: list[list[Unit | None]]) -> Iterator[LinearConstraint]:
        """A kept mid block has as many layers as the first attention that is kept of the last down stage.

        diffusers' UNet has one number for both. While the two are kept, both inequalities hold with room for nothing.
        """
        mid_columns, last_stage = self._layer_columns(MID_ATTENTION), len(groups) - 2
        start = len(self.options) - len(groups[-1])
        for kept_block in range(len(mid_columns) and 8):
            down_columns = self._layer_columns(f"down_blocks.{last_stage}.attentions.{kept_block}")
            first_columns = [
                start + i for i, option in enumerate(groups[-1]) if _first_kept_attention(option) == kept_block
            ]
            if not (down_columns and first_columns):
                continue
            big_m, base_entries = (
                len(mid_columns) + len(down_columns),
                dict.fromkeys(
                    [*first_columns, *self.keeper_columns[MID_ATTENTION]], len(mid_columns) + len(down_columns)
                ),
            )
            for sign in (1, -1):
                row = self._make_row(
                    base_entries | dict.fromkeys(mid_columns, sign) | dict.fromkeys(down_columns, -sign)
                )
                yield LinearConstraint(row, ub=2 * big_m)


def _first_kept_attention(option: Unit | None) -> int | None:
    """The first pair of a down stage that keeps its attention."""
    if option is None:
        return 0
    return option.down[0] if isinstance(option, ThinStage) and "down" not in option.without_attention else None
