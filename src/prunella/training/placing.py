"""Where and how a training computes, as the machine allows: nothing here changes what is learned, but for last bits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from prunella.params import Runtime
from prunella.training.compiling import compiled


class Place(NamedTuple):
    device: str = "cpu"
    compile: bool = False
    channels_last: bool = False


def place(runtime: Runtime, device: str) -> Place:
    """What `runtime` asks for on `device`. "auto" compiles, and puts channels last, on a GPU, where both pay off."""
    gpu = device.startswith("cuda")
    return Place(device, *(gpu if asked == "auto" else asked for asked in (runtime.compile, runtime.channels_last)))


@contextmanager
def settled(model: nn.Module, listened: Iterable[str], place: Place) -> Iterator[nn.Module]:
    """Inside, the model computes as `place` says. `listened` are modules whose outputs are tapped."""
    if place.channels_last:
        model.to(memory_format=torch.channels_last)
    if not place.compile:
        yield model
        return
    with compiled(model, listened):
        yield model
