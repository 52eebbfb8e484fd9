"""torch.compile, part by part, so that the outputs that are listened to stay outside of what is compiled.

A hook on a module inside a compiled region would be compiled away or would break the region. So the largest of the
UNet's repeated parts are compiled that hold no such module: a residual block, a transformer block, else what is in it.
Equal parts share their code, and compiling takes a minute where the whole UNet would take many.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

REGIONS = ("ResnetBlock2D", "BasicTransformerBlock", "Attention", "FeedForward", "Downsample2D", "Upsample2D")


@contextmanager
def compiled(model: nn.Module, hooked: Iterable[str], backend: str = "inductor") -> Iterator[list[str]]:
    """Inside, the model's parts run compiled; yields their names. `listened` are modules whose outputs are tapped.

    A tapped module may be a part itself, since hooks are called around `forward`, which alone is compiled.
    """
    inner = {".".join(name.split(".")[:depth]) for name in hooked for depth in range(1, name.count(".") + 1)}
    names = list(_regions(model, "", inner))
    # Parts share code objects, of which torch compiles but eight variants before it gives up.
    with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=4096):
        try:
            for name in names:
                part = model.get_submodule(name)
                part.forward = torch.compile(part.forward, backend=backend, dynamic=False)
            yield names
        finally:
            for name in names:
                vars(model.get_submodule(name)).pop("forward", None)


def _regions(module: nn.Module, name: str, inner: set[str]) -> Iterator[str]:
    for child_name, child in module.named_children():
        whole = f"{name}.{child_name}".lstrip(".")
        if type(child).__name__ in REGIONS and whole not in inner:
            yield whole
        else:
            yield from _regions(child, whole, inner)


def eager() -> AbstractContextManager[None]:
    """A context in which nothing runs compiled: measuring and drawing come in other shapes."""
    return torch.compiler.set_stance("force_eager")
