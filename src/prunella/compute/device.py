"""Where and how a training computes, as the machine allows: nothing here changes what is learned, but for last bits."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import nn

from prunella.compute.compile import compiled
from prunella.compute.fsdp import share_out, units
from prunella.compute.launch import launched, size
from prunella.errors import UserError
from prunella.params import Runtime


class Placement(NamedTuple):
    device: str = "cpu"
    compile: bool = False
    channels_last: bool = False
    micro_batch: Literal["auto"] | int = "auto"  # examples of a batch in one pass; auto: what `training.memory` reckons
    fsdp: bool = False  # each of several processes has a part of the weights


def place(runtime: Runtime, device: str) -> Placement:
    """What `runtime` asks for on `device`. "auto" compiles, and puts channels last, on a GPU, where both pay off.

    Raises UserError for channels last with FSDP, which cuts tensors as they lie.
    """
    gpu, fsdp = device.startswith("cuda"), runtime.fsdp and size() > 1
    if fsdp and runtime.channels_last is True:
        raise UserError("runtime.channels_last: true does not go with runtime.fsdp: true; auto leaves it out there")
    compile = gpu if runtime.compile == "auto" else runtime.compile
    channels_last = gpu and not fsdp if runtime.channels_last == "auto" else runtime.channels_last
    return Placement(device, compile, channels_last, runtime.micro_batch, fsdp)


@contextmanager
def placed(model: nn.Module, hooked: Iterable[str], place: Placement, *, sizes: int = 1) -> Iterator[nn.Module]:
    """Inside, the model computes as `place` says. `hooked` are modules whose outputs are tapped.

    Pictures have `sizes` different ones. Gradient checkpointing is set before. With FSDP the model is shared out, and
    stays so.
    """
    if place.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs
    apart = units(model) if place.fsdp else []  # weights are put together around what is compiled
    with compiled(model, [*hooked, *apart], sizes=sizes) if place.compile else nullcontext():
        if place.fsdp:
            share_out(model)
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
