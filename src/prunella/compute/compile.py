"""torch.compile, part by part, so that the outputs that are listened to stay outside of what is compiled.

A hook on a module inside a compiled region would be compiled away or would break the region. So the largest parts of
the UNet are compiled that hold no such module: a whole stage, with the skips that it joins; else a transformer with the
norm and the projections around its layers, a residual block, a layer, else what is in it. Equal parts share their code.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from prunella.errors import UserError

STAGES = (
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UNetMidBlock2D",
    "CrossAttnUpBlock2D",
    "UpBlock2D",
)
LAYER = "BasicTransformerBlock"
REGIONS = (
    *STAGES,
    "Transformer2DModel",
    "ResnetBlock2D",
    LAYER,
    "Attention",
    "FeedForward",
    "Downsample2D",
    "Upsample2D",
)
LAYERS = 4  # in one region at most: SDXL's ten alike are compiled once when each is a region, and ten times inside one
VARIANTS = 256  # of one code object; parts share code objects, of which torch by itself compiles but eight variants


@contextmanager
def compiled(
    model: nn.Module, hooked: Iterable[str], backend: str | Callable = "inductor", *, sizes: int = 1
) -> Iterator[list[str]]:
    """Inside, the model's parts run compiled; yields their names. `hooked` are modules whose outputs are tapped.

    A tapped module may be a part itself, since hooks are called around `forward`, which alone is compiled. Where
    pictures have several `sizes`, code is made once for all of them. Gradient checkpointing must be set before: it
    runs parts of a stage again, so that a stage is not one region then. Raises UserError where there are more variants
    than are compiled; torch by itself would run the rest as it is, for good.
    """
    inner = {".".join(name.split(".")[:depth]) for name in hooked for depth in range(1, name.count(".") + 1)}
    names = list(_regions(model, "", inner))
    with torch._dynamo.config.patch(
        recompile_limit=VARIANTS, accumulated_recompile_limit=16 * VARIANTS, fail_on_recompile_limit_hit=True
    ):
        try:
            for name in names:
                part = model.get_submodule(name)
                part.forward = torch.compile(part.forward, backend=backend, dynamic=sizes > 1)
            yield names
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise UserError(
                f"torch.compile: a part of the UNet came in more than {VARIANTS} shapes; "
                f"runtime.compile: false runs without ({str(error).splitlines()[0]})"
            ) from error
        finally:
            for name in names:
                vars(model.get_submodule(name)).pop("forward", None)


def _regions(module: nn.Module, name: str, inner: set[str]) -> Iterator[str]:
    for child_name, child in module.named_children():
        whole = f"{name}.{child_name}".lstrip(".")
        if type(child).__name__ in REGIONS and whole not in inner and _is_one(child):
            yield whole
        else:
            yield from _regions(child, whole, inner)


def _is_one(part: nn.Module) -> bool:
    """Whether a part is compiled as a whole.

    Inductor (torch 2.13, on a CPU, bf16) gives what comes before an upsampler in one region no gradient at all, so an
    upsampler is a region of its own (tests/compute/test_compile.py).
    """
    if any(type(each).__name__ == "Upsample2D" for each in part.modules() if each is not part):
        return False
    layers = sum(type(each).__name__ == LAYER for each in part.modules())
    return layers <= LAYERS and not getattr(part, "gradient_checkpointing", False)


def fused(function: Callable[..., Tensor], backend: str | Callable = "inductor") -> Callable[..., Tensor]:
    """The function as one kernel, or few, for tensors of any size."""
    return torch.compile(function, backend=backend, dynamic=True)


def eager() -> AbstractContextManager[None]:
    """A context in which nothing runs compiled: measuring and drawing come in other shapes."""
    return torch.compiler.set_stance("force_eager")
