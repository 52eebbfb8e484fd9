"""torch.compile, part by part, so that the outputs that are listened to stay outside of what is compiled.

A hook on a module inside a compiled region would be compiled away or would break the region. Therefore the largest
parts of the UNet are compiled that hold no such module: a whole stage, with the skips that it joins; else a transformer
with the norm and the projections around its layers, a residual block, a layer, else what is in it. Equal parts share
their code.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from prunella.errors import UserError

STAGE_CLASSES = (
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UNetMidBlock2D",
    "CrossAttnUpBlock2D",
    "UpBlock2D",
)
LAYER_CLASS = "BasicTransformerBlock"
REGION_CLASSES = (
    *STAGE_CLASSES,
    "Transformer2DModel",
    "ResnetBlock2D",
    LAYER_CLASS,
    "Attention",
    "FeedForward",
    "Downsample2D",
    "Upsample2D",
)
MAX_LAYERS_PER_REGION = (
    4  # in one region at most: SDXL's ten alike are compiled once when each is a region, and ten times inside one
)
MAX_VARIANTS = 256  # of one code object; parts share code objects, of which torch by itself compiles but eight variants


@contextmanager
def compile_regions(
    model: nn.Module, hooked_modules: Iterable[str], backend: str | Callable = "inductor", *, num_sizes: int = 1
) -> Iterator[list[str]]:
    """Inside, the model's parts run compiled; yields their names. `hooked_modules` are modules whose outputs are
    tapped.

    A tapped module may be a part itself, since hooks are called around `forward`, which alone is compiled. With
    pictures of several `num_sizes`, code is made once for all of them. Gradient checkpointing must be set before: it
    runs parts of a stage again, so that a stage is not one region then. Raises UserError where there are more variants
    than are compiled; torch by itself would run the rest as it is, for good.
    """
    containers = {
        ".".join(name.split(".")[:depth]) for name in hooked_modules for depth in range(1, name.count(".") + 1)
    }
    names = list(_find_regions(model, "", containers))
    with torch._dynamo.config.patch(
        recompile_limit=MAX_VARIANTS, accumulated_recompile_limit=16 * MAX_VARIANTS, fail_on_recompile_limit_hit=True
    ):
        try:
            for name in names:
                region = model.get_submodule(name)
                region.forward = torch.compile(region.forward, backend=backend, dynamic=num_sizes > 1)
            yield names
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise UserError(
                f"torch.compile: a part of the UNet came in more than {MAX_VARIANTS} shapes; "
                f"runtime.compile: false runs without ({str(error).splitlines()[0]})"
            ) from error
        finally:
            for name in names:
                vars(model.get_submodule(name)).pop("forward", None)


def _find_regions(module: nn.Module, name: str, containers: set[str]) -> Iterator[str]:
    for child_name, child in module.named_children():
        full_name = f"{name}.{child_name}".lstrip(".")
        if type(child).__name__ in REGION_CLASSES and full_name not in containers and _is_single_region(child):
            yield full_name
        else:
            yield from _find_regions(child, full_name, containers)


def _is_single_region(module: nn.Module) -> bool:
    """Whether a part is compiled as a whole.

    Inductor (torch 2.13, on a CPU, bf16) gives what comes before an upsampler in one region no gradient at all, so an
    upsampler is a region of its own (tests/compute/test_compile.py).
    """
    if any(type(submodule).__name__ == "Upsample2D" for submodule in module.modules() if submodule is not module):
        return False
    layers = sum(type(submodule).__name__ == LAYER_CLASS for submodule in module.modules())
    return layers <= MAX_LAYERS_PER_REGION and not getattr(module, "gradient_checkpointing", False)


def compile_function(function: Callable[..., Tensor], backend: str | Callable = "inductor") -> Callable[..., Tensor]:
    """The function as one kernel, or few, for tensors of any size."""
    return torch.compile(function, backend=backend, dynamic=True)


def disable_compile() -> AbstractContextManager[None]:
    """A context in which nothing runs compiled: measuring and drawing come in other shapes."""
    return torch.compiler.set_stance("force_eager")
