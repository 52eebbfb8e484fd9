"""Listen to a model's inner outputs while a `with` lasts; nothing stays hooked afterwards.

A hook only notes a tensor and computes nothing, so that gradient checkpointing may run the module again. It is gone by
the time of the backward pass, where checkpointing does so.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def capture_outputs(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that a forward pass fills with the output of each named module.

    For a tuple (down blocks give hidden states and skips) the first is taken. Raises AttributeError for a name
    that the model lacks.
    """
    seen: dict[str, Tensor] = {}

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = []
    try:
        for name in names:
            hooks.append(model.get_submodule(name).register_forward_hook(listen(name)))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
