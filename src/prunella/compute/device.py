"""Device and precision of a training, as the machine allows: nothing here changes what is learned, but for last
bits."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import nn

from prunella.compute.compile import compile_regions
from prunella.compute.fsdp import apply_fsdp2, list_wrapped_modules
from prunella.compute.launch import is_launched, world_size
from prunella.errors import UserError
from prunella.params import Runtime


class Placement(NamedTuple):
    device: str = "cpu"
    compile: bool = False
    channels_last: bool = False
    micro_batch: Literal["auto"] | int = "auto"  # examples of a batch in one pass; auto: what `training.memory` reckons
    fsdp: bool = False  # each of several processes has a part of the weights


def make_placement(runtime: Runtime, device: str) -> Placement:
    """The choice of `runtime` for on `resolve_device`. "auto" compiles, and puts channels last, on a GPU, where both
    pay off.

    Raises UserError for channels last with FSDP, which cuts tensors as they lie.
    """
    gpu, fsdp = device.startswith("cuda"), runtime.fsdp and world_size() > 1
    if fsdp and runtime.channels_last is True:
        raise UserError("runtime.channels_last: true does not go with runtime.fsdp: true; auto leaves it out there")
    compile = gpu if runtime.compile == "auto" else runtime.compile
    channels_last = gpu and not fsdp if runtime.channels_last == "auto" else runtime.channels_last
    return Placement(device, compile, channels_last, runtime.micro_batch, fsdp)


@contextmanager
def apply_placement(
    model: nn.Module, hooked_modules: Iterable[str], placement: Placement, *, num_sizes: int = 1
) -> Iterator[nn.Module]:
    """Inside, the model computes as `make_placement` says. `hooked_modules` are modules whose outputs are tapped.

    Pictures have `num_sizes` different ones. Gradient checkpointing is set before. With FSDP the model is shared out,
    and stays so.
    """
    if placement.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs
    wrapped_modules = (
        list_wrapped_modules(model) if placement.fsdp else []
    )  # weights are put together around what is compiled
    with (
        compile_regions(model, [*hooked_modules, *wrapped_modules], num_sizes=num_sizes)
        if placement.compile
        else nullcontext()
    ):
        if placement.fsdp:
            apply_fsdp2(model)
        yield model


def resolve_device(runtime: Runtime) -> str:
    """The device that `runtime` asks for; auto takes a GPU where there is one. Sets the number of threads.

    Among several processes on one machine, each takes the GPU of its own number.
    """
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device_name = runtime.device
    if device_name == "auto":
        device_name = "cuda" if torch.cuda.is_available() else "cpu"
    if device_name == "cuda" and is_launched():
        device_name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(1, device=device_name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"runtime.device: {device_name!r} cannot be used: {str(error).splitlines()[0]}") from None
    if device_name.startswith("cuda:"):
        torch.cuda.set_device(device_name)
    return device_name
