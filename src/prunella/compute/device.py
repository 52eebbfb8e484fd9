"""Where and how a training computes, as the machine allows: nothing here changes what is learned, but for last bits."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import nn

from prunella.compute.compile import compiled
from prunella.compute.launch import launched
from prunella.errors import UserError
from prunella.params import Runtime


class Placement(NamedTuple):
    device: str = "cpu"
    compile: bool = False
    channels_last: bool = False
    micro_batch: Literal["auto"] | int = "auto"  # examples of a batch in one pass; auto: what `training.memory` reckons


def place(runtime: Runtime, device: str) -> Placement:
    """What `runtime` asks for on `device`. "auto" compiles, and puts channels last, on a GPU, where both pay off."""
    gpu = device.startswith("cuda")
    compile, channels_last = (gpu if asked == "auto" else asked for asked in (runtime.compile, runtime.channels_last))
    return Placement(device, compile, channels_last, runtime.micro_batch)


@contextmanager
def placed(model: nn.Module, hooked: Iterable[str], place: Placement, *, sizes: int = 1) -> Iterator[nn.Module]:
    """Inside, the model computes as `place` says. `hooked` are modules whose outputs are tapped.

    Pictures have `sizes` different ones. Gradient checkpointing is set before.
    """
    if place.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs
    if not place.compile:
        yield model
        return
    with compiled(model, hooked, sizes=sizes):
        yield model


def device(runtime: Runtime) -> str:
    """The device that `runtime` asks for; auto takes a GPU where there is one. Sets the number of threads.

    Of several processes on one machine each takes the GPU of its own number.
    """
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    wanted = runtime.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and launched():
        wanted = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"runtime.device: {wanted!r} cannot be used: {str(error).splitlines()[0]}") from None
    if wanted.startswith("cuda:"):
        torch.cuda.set_device(wanted)
    return wanted
