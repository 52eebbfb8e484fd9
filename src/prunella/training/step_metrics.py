"""What steps give, read while the next one runs: a GPU that is asked for a number stops until it has nothing to do.

A step's numbers are copied to the CPU behind its work, and looked at one step later. Meanwhile no step may be taken on
top of a bad one, so the device itself remembers that a number was not finite (`spoilt`), by which torch's fused AdamW
passes over this step and all that follow.
"""

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from prunella.errors import UserError

Terms = dict[str, float]
NORM = "gradient_norm"  # over all parameters, before clipping
SKIPS = 20  # steps in a row that fp16 may pass over: from 65,536 its scale has then fallen below 1


class Reading:
    """Numbers on their way from the device."""

    def __init__(self, numbers: Tensor):
        self.numbers = numbers.to("cpu", non_blocking=True)
        self.copied = torch.cuda.Event() if numbers.is_cuda else None
        if self.copied:
            self.copied.record()

    def values(self) -> list[float]:
        """The numbers, waited for where need be."""
        if self.copied:
            self.copied.synchronize()
        return self.numbers.tolist()


class Step(NamedTuple):
    number: int  # from 0
    names: list[str]
    reading: Reading
    pairs: list[int]


class Readings:
    """The numbers of steps: how they are read, whether they say to stop, and that nothing follows a bad one.

    With `late` each is looked at when the next step is under way. With a `scaler` (fp16) a step that is not finite is
    one that the scaler passes over.
    """

    def __init__(self, device: torch.device, *, late: bool, scaler: bool):
        self.late, self.scaler, self.stopping, self.skipped = late, scaler, False, 0
        self.waiting: deque[Step] = deque()
        self.rows: list[tuple[int, Terms]] = []
        self.spoilt = torch.zeros((), device=device)  # 1 from the first number on that is not finite

    def add(self, number: int, names: list[str], told: Tensor, pairs: list[int]) -> None:
        """Of a step the terms called `names`, the gradient's norm, and above 0 if a process is asked to stop."""
        self.spoilt = torch.maximum(self.spoilt, 1 - torch.isfinite(told).all().float())
        self.waiting.append(Step(number, names, Reading(told), pairs))

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a step is taken: look at it, or else have the optimizer do so on the device.

        Raises UserError where it is not finite; with a scaler, where that is so for more than SKIPS in a row.
        """
        if not self.late:
            self._look(leave=0)
        elif not self.scaler:  # which tells the optimizer itself
            optimizer.found_inf = self.spoilt  # type: ignore[attr-defined]

    def known(self, *, every: bool) -> list[tuple[int, Terms]]:
        """(steps done, means of the terms and the norm) of the steps that are newly known; of `every` one if asked.

        Raises as `guard` does.
        """
        self._look(leave=0 if every else 1)
        if self.stopping:
            self._look(leave=0)
        rows, self.rows = self.rows, []
        return rows

    def _look(self, leave: int) -> None:
        while len(self.waiting) > leave:
            step = self.waiting.popleft()
            *values, stop = step.reading.values()
            terms = dict(zip([*step.names, NORM], values, strict=True))
            self.stopping |= stop > 0
            self.skipped = 0 if all(map(math.isfinite, values)) else self.skipped + 1
            if self.skipped > (SKIPS if self.scaler else 0):
                norm = terms.pop(NORM)
                check_finite(terms, step.number, step.pairs)  # a term that is not finite leaves no gradient that is
                check_finite({NORM: norm}, step.number, step.pairs)
            finite = {name: value for name, value in terms.items() if math.isfinite(value)}
            self.rows.append((step.number + 1, finite))


def reads_late(device: torch.device, optimizer: torch.optim.Optimizer) -> bool:
    """Whether to look a step late: beside a GPU, if the optimizer can be told there to pass over a step."""
    return device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False)


def check_finite(values: Terms, step: int, pairs: list[int]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        seen = f" (pairs {', '.join(map(str, pairs))} of the training split)" if pairs else ""
        cure = "a smaller learning_rate, or precision fp32 or bf16 in place of fp16, usually cures that"
        if step == 0 and bad != [NORM]:
            cure = "before any step: teacher or data; run the teacher stage and encode anew, or fp32 in place of fp16"
        raise UserError(f"step {step}: {', '.join(bad)} is not finite{seen}; {cure}")
