"""FSDP2: a model's weights, gradients and moments shared out among the processes that train together.

Each process keeps a part of every tensor, cut along its first dimension (ZeRO's third stage, arXiv 1910.02054; torch's
`fully_shard`). A layer's weights are put together while it computes, and its gradients are averaged and cut again. A
state on disk is of whole tensors, so that any number of processes, shared out or not, goes on from it.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from prunella.compute.launch import world_size

WRAP_CLASSES = (
    "BasicTransformerBlock",
    "ResnetBlock2D",
)  # put together one at a time; what is in neither, for a whole pass


def list_wrapped_modules(model: nn.Module) -> list[str]:
    """The names of the modules whose weights are put together at a time."""
    return [name for name, module in model.named_modules() if type(module).__name__ in WRAP_CLASSES]


def apply_fsdp2(model: nn.Module) -> None:
    """Leave this process its part of each of the model's parameters. All processes call it, with equal weights."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    for module in [*map(model.get_submodule, list_wrapped_modules(model)), model]:
        # Of the whole too: between two passes each parameter is a part, which is what is optimised, averaged and kept.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def to_meta(model: nn.Module) -> Any:
    """The model without content (on the meta device), to be filled when its weights have been put together."""
    replacements: dict[int, Any] = {id(tensor): tensor.to("meta") for tensor in model.buffers()}
    for tensor in model.parameters():
        replacements[id(tensor)] = nn.Parameter(tensor.detach().to("meta"), tensor.requires_grad)
    return copy.deepcopy(model, replacements)


def is_fsdp(model: nn.Module) -> bool:
    """Whether processes have a part each of the model's parameters; it is so of all or of none, so one is looked at."""
    return isinstance(next(model.parameters(), None), DTensor)


def full_state_dict(state: Any, *, retain: bool = True) -> Any:
    """A state whose tensors are parts with each put together, on the CPU; with None in its place unless `retain`.

    All processes call it together. One tensor at a time is whole on the device.
    """
    if isinstance(state, DTensor):
        full_tensor = state.full_tensor()
        return full_tensor.detach().to("cpu") if retain else None
    if isinstance(state, Mapping):
        return {name: full_state_dict(value, retain=retain) for name, value in state.items()}
    return (
        type(state)(full_state_dict(value, retain=retain) for value in state)
        if isinstance(state, list | tuple)
        else state
    )


def full_scalar(number: Tensor) -> Tensor:
    """A number that processes have parts of, such as a norm, where it is."""
    return number.full_tensor() if isinstance(number, DTensor) else number


def shard_like(value: Any, reference: Tensor) -> Any:
    """This process's part of a tensor as large as `reference`, where that is a part; else the value.

    Nobody is asked.
    """
    if not isinstance(reference, DTensor) or not isinstance(value, Tensor) or value.shape != reference.shape:
        return value
    return distribute_tensor(
        value.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None
    )


def shard_state_like(state: dict[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """The same of all that an optimizer's state, or an average's, holds of each of the `parameters`."""
    if "shadow_params" in state:
        values = [
            shard_like(value, reference) for value, reference in zip(state["shadow_params"], parameters, strict=True)
        ]
        return state | {"shadow_params": values}
    moments = {
        index: {name: shard_like(value, parameters[index]) for name, value in tensors.items()}
        for index, tensors in state["state"].items()
    }
    return state | {"state": moments}
