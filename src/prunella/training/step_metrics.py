"""Values of steps, read while the next one runs: a GPU that is asked for a number stops until it has nothing to do.

A step's numbers are copied to the CPU behind its work, and looked at one step later. Meanwhile no step may be taken on
top of a bad one, so the device itself remembers that a number was not finite (`nonfinite`), by which torch's fused
AdamW passes over this step and all that follow.
"""

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from prunella.errors import UserError

Terms = dict[str, float]
GRAD_NORM = "gradient_norm"  # over all parameters, before clipping
MAX_SKIPPED_STEPS = 20  # steps in a row that fp16 may pass over: from 65,536 its scale has then fallen below 1


class AsyncTensor:
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


class PendingStep(NamedTuple):
    number: int  # from 0
    names: list[str]
    values: AsyncTensor
    pairs: list[int]


class StepMetrics:
    """The numbers of steps: how they are read, whether they say to stop, and that nothing follows a bad one.

    With `deferred` each is looked at when the next step is under way. With a `scaler` (fp16) a step that is not finite
    is one that the scaler passes over.
    """

    def __init__(self, device: torch.device, *, deferred: bool, scaler: bool):
        self.deferred, self.scaler, self.stopping, self.skipped = deferred, scaler, False, 0
        self.pending: deque[PendingStep] = deque()
        self.rows: list[tuple[int, Terms]] = []
        self.nonfinite = torch.zeros((), device=device)  # 1 from the first number on that is not finite

    def add(self, number: int, names: list[str], values: Tensor, pairs: list[int]) -> None:
        """For a step, the terms called `names`, the gradient's norm, and above 0 if a process is asked to stop."""
        self.nonfinite = torch.maximum(self.nonfinite, 1 - torch.isfinite(values).all().float())
        self.pending.append(PendingStep(number, names, AsyncTensor(values), pairs))

    def check_or_skip(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a step is taken: look at it, or else have the optimizer do so on the device.

        Raises UserError where it is not finite; with a scaler, where that is so for more than SKIPS in a row.
        """
        if not self.deferred:
            self._read_pending(remaining=0)
        elif not self.scaler:  # which tells the optimizer itself
            optimizer.found_inf = self.nonfinite  # type: ignore[attr-defined]

    def flush(self, *, everything: bool) -> list[tuple[int, Terms]]:
        """(steps done, means of the terms and the norm) of the steps that are newly known; of `everything` one if
        asked.

        Raises as `check_or_skip` does.
        """
        self._read_pending(remaining=0 if everything else 1)
        if self.stopping:
            self._read_pending(remaining=0)
        rows, self.rows = self.rows, []
        return rows

    def _read_pending(self, remaining: int) -> None:
        while len(self.pending) > remaining:
            step = self.pending.popleft()
            *values, stop = step.values.values()
            terms = dict(zip([*step.names, GRAD_NORM], values, strict=True))
            self.stopping |= stop > 0
            self.skipped = 0 if all(map(math.isfinite, values)) else self.skipped + 1
            if self.skipped > (MAX_SKIPPED_STEPS if self.scaler else 0):
                norm = terms.pop(GRAD_NORM)
                check_finite(terms, step.number, step.pairs)  # a term that is not finite leaves no gradient that is
                check_finite({GRAD_NORM: norm}, step.number, step.pairs)
            finite = {name: value for name, value in terms.items() if math.isfinite(value)}
            self.rows.append((step.number + 1, finite))


def defers_reads(device: torch.device, optimizer: torch.optim.Optimizer) -> bool:
    """Whether to look a step late: beside a GPU, if the optimizer can be told there to pass over a step."""
    return device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False)


def check_finite(values: Terms, step: int, pairs: list[int]) -> None:
    nonfinite_names = [name for name, value in values.items() if not math.isfinite(value)]
    if nonfinite_names:
        pairs_text = f" (pairs {', '.join(map(str, pairs))} of the training split)" if pairs else ""
        advice = "a smaller learning_rate, or precision fp32 or bf16 in place of fp16, usually cures that"
        if step == 0 and nonfinite_names != [GRAD_NORM]:
            advice = "before any step: teacher or data; run the teacher stage and encode anew, or fp32 in place of fp16"
        raise UserError(f"step {step}: {', '.join(nonfinite_names)} is not finite{pairs_text}; {advice}")
