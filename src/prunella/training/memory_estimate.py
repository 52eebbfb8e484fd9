"""Estimate of a training's device memory, reckoned before it begins: how much of a batch fits, what knobs save.

Weights, gradients and moments follow from the parameters. The memory of the backward pass is found by running the
student for one and for two examples on tensors without content, and adding up what autograd keeps.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from prunella.compute.fsdp import list_wrapped_modules
from prunella.compute.precision import AUTOCAST_DTYPES, autocast
from prunella.models.families import predict_with_unet
from prunella.models.pipeline import build_meta_unet
from prunella.params import DiffusionTraining, Precision
from prunella.training.feature_capture import capture_outputs

GB = 1e9
USABLE_FRACTION = 0.8  # of the memory that is there; kernels' buffers and gaps between tensors take the rest
Example = dict[str, tuple[int, ...]]  # shapes of one example: "latents" CHW, "states" LD, for SDXL "pooled" and "sizes"


class MemorySpec(NamedTuple):
    """The training in question: UNet configs of student and teacher (None: none), the shapes of one example, on
    what."""

    student: dict
    teacher: dict | None
    example: Example
    processes: int = 1
    gpu: bool = False
    hooked_modules: tuple[str, ...] = ()  # modules of the student whose outputs are compared with the teacher's
    other_bytes: int = 0  # bytes of what else is on the device: VAE and text encoders, for pictures
    passes: int = 1  # that wait for one backward pass: pictures of a thing, and of its class
    num_trainable: int | None = None  # how many numbers are learned; None: all of the student's
    num_shards: int = 1  # that weights, gradients and moments are cut into, of which a process has one (FSDP)


class MemoryEstimate(NamedTuple):
    """Bytes of a training, by what they are for."""

    weights: int  # the student's, in fp32, and their copies in the precision of the computation
    gradients: int
    optimizer: int
    average: int  # EMA
    teacher: int
    other: int
    activations: int  # what the backward pass needs of a batch
    features: int  # of a batch: the teacher's, and the differences in fp32

    @property
    def total(self) -> int:
        return sum(self)


def estimate_memory(spec: MemorySpec, settings: DiffusionTraining, micro_batch: int | None = None) -> MemoryEstimate:
    """The memory of one of the processes needs with `micro_batch` examples in a pass (None: its share of a batch).

    Buffers that a kernel needs while it runs are not counted. With weights in several parts, two layers are whole at
    a time; what autocast made of the others waits for the backward pass, unless checkpointing does without.
    """
    bytes_per_value = 2 if settings.precision in AUTOCAST_DTYPES else 4
    size, batch = (
        count_parameters(spec.student),
        settings.batch_size // spec.processes if micro_batch is None else micro_batch,
    )
    num_trainable = size if spec.num_trainable is None else spec.num_trainable
    activation_bytes, feature_elements = _load_or_trace(
        json.dumps([spec.student, spec.example, spec.gpu, spec.hooked_modules]),
        json.dumps([settings.precision, settings.gradient_checkpointing]),
    )
    cast_bytes, num_shards = bytes_per_value if bytes_per_value < 4 else 0, spec.num_shards
    gathered_student, gathered_teacher = (
        2 * largest_layer(config) if config and num_shards > 1 else 0 for config in (spec.student, spec.teacher)
    )
    cast_values = gathered_student if num_shards > 1 and settings.gradient_checkpointing else size
    return MemoryEstimate(
        weights=4 * size // num_shards + 4 * gathered_student + cast_bytes * cast_values,
        gradients=4 * num_trainable // num_shards + 4 * min(gathered_student, num_trainable),
        optimizer={"adamw": 8, "adamw-8bit": 2}[settings.optimizer] * num_trainable // num_shards,
        average=4 * num_trainable // num_shards if settings.ema_decay else 0,
        teacher=bytes_per_value * (count_parameters(spec.teacher) // num_shards + gathered_teacher)
        if spec.teacher
        else 0,
        other=spec.other_bytes,
        activations=batch * activation_bytes * spec.passes,
        features=batch * feature_elements * (bytes_per_value + 4),
    )


def choose_micro_batch(
    requested: Literal["auto"] | int, spec: MemorySpec, settings: DiffusionTraining, memory: int
) -> int:
    """How many examples of its batch a process of the subject takes in one pass, of `memory` bytes on its device.

    "auto" takes the whole where that fits. Else the largest part that divides it, so that all passes have one shape;
    where none is half of what fits, parts as equal as can be. One example is taken whether it fits or not.
    """
    batch_share = settings.batch_size // spec.processes
    if requested != "auto":
        return min(requested, batch_share)
    none, one = (estimate_memory(spec, settings, count).total for count in (0, 1))
    max_fitting = max(1, min(batch_share, int((USABLE_FRACTION * memory - none) // (one - none))))
    divisor = max(count for count in range(1, max_fitting + 1) if batch_share % count == 0)
    return divisor if 2 * divisor >= max_fitting else -(-batch_share // -(-batch_share // max_fitting))


def memory_per_process(device: torch.device, processes: int = 1) -> int:
    """Bytes of memory for each of the `processes` that train together: a GPU's, or a part of this machine's."""
    return device_memory(device) // (1 if device.type == "cuda" else processes)


def memory_savers(spec: MemorySpec, settings: DiffusionTraining, micro_batch: int | None = None) -> dict[str, int]:
    """The savings of each change, in bytes, by the change; none changes how many examples a step sees."""
    micro_batch = micro_batch or settings.batch_size // spec.processes
    now = estimate_memory(spec, settings, micro_batch).total
    savings = {}
    if micro_batch > 1:
        savings[f"runtime.micro_batch: {micro_batch // 2}"] = (
            now - estimate_memory(spec, settings, micro_batch // 2).total
        )
    changes: dict[str, dict[str, Any]] = {}
    if not settings.gradient_checkpointing:
        changes["gradient_checkpointing: true"] = {"gradient_checkpointing": True}
    if settings.optimizer == "adamw":
        changes["optimizer: adamw-8bit"] = {"optimizer": "adamw-8bit"}
    if settings.ema_decay:
        changes["ema_decay: 0"] = {"ema_decay": 0.0}
    if settings.precision not in AUTOCAST_DTYPES:
        changes["precision: bf16"] = {"precision": "bf16"}
    if spec.processes > 1 and spec.num_shards == 1 and settings.optimizer == "adamw" and not spec.other_bytes:
        sharded = spec._replace(num_shards=spec.processes)
        savings["runtime.fsdp: true"] = now - estimate_memory(sharded, settings, micro_batch).total
    for change_text, change in changes.items():
        savings[change_text] = now - estimate_memory(spec, settings.model_copy(update=change), micro_batch).total
    return savings


def format_savers(savings: dict[str, int]) -> str:
    """One line that says which knob buys how much, the largest first."""
    ranked = sorted(((saved, change) for change, saved in savings.items() if saved > 0), reverse=True)
    return "; ".join(f"{change} saves {saved / GB:.2f} GB" for saved, change in ranked)


def device_memory(device: torch.device) -> int:
    """Bytes of memory on the device: a GPU's, or this machine's, or what the container may have of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    total = psutil.virtual_memory().total
    return total if allowed == "max" else min(total, int(allowed))


def count_tokens(teacher: Path) -> int:
    """How many tokens a pipeline folder's text encoder takes."""
    config = json.loads((teacher / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    return config.get("max_position_embeddings", 77)  # CLIP's own, in transformers' configs of it


def count_parameters(config: dict) -> int:
    """How many numbers the UNet of a config has."""
    return _count_parameters(json.dumps(config))


def largest_layer(config: dict) -> int:
    """How many numbers are put together at once where weights are cut into parts: a layer's, or all that is in none."""
    return _find_largest_layer(json.dumps(config))


@lru_cache
def _count_parameters(config: str) -> int:
    return build_meta_unet(json.loads(config)).num_parameters()


@lru_cache
def _find_largest_layer(config: str) -> int:
    unet = build_meta_unet(json.loads(config))
    sizes = [sum(part.numel() for part in unet.get_submodule(name).parameters()) for name in list_wrapped_modules(unet)]
    return max(*sizes, unet.num_parameters() - sum(sizes))


@lru_cache
def _load_or_trace(subject: str, settings: str) -> tuple[int, int]:
    """`_trace_saved_activations` by what decides it, written as JSON: a run on tensors without content takes
    seconds."""
    student, example, gpu, hooked_modules = json.loads(subject)
    shapes = {name: tuple(shape) for name, shape in example.items()}
    return _trace_saved_activations(
        MemorySpec(student, None, shapes, gpu=gpu, hooked_modules=tuple(hooked_modules)), *json.loads(settings)
    )


def _trace_saved_activations(spec: MemorySpec, precision: Precision, checkpointing: bool) -> tuple[int, int]:
    """For an example: the bytes that autograd keeps, and how many elements the features have that are listened to.

    With checkpointing, the bytes of the largest part that is run again are among them.
    """
    meta_unet = build_meta_unet(spec.student)
    with FakeTensorMode(), torch.device("cpu"):
        unet = meta_unet._apply(lambda part: torch.empty(part.shape, dtype=part.dtype)).train()
        if spec.gpu and precision in AUTOCAST_DTYPES:
            _norms_in_fp32(unet)
        one, two = (_trace_forward(unet, spec, precision, checkpointing, batch) for batch in (1, 2))
    saved_bytes, part, elements = (b - a for a, b in zip(one, two, strict=True))
    return saved_bytes + part, elements


def _norms_in_fp32(unet: nn.Module) -> None:
    """On a GPU autocast runs norms in fp32, as it does not on a CPU, and keeps what they are given in fp32."""
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _trace_forward(
    unet: UNet2DConditionModel, spec: MemorySpec, precision: Precision, checkpointing: bool, batch: int
) -> tuple[int, int, int]:
    """Bytes kept, bytes of the largest part that is run again, elements of the features; of `batch` examples."""
    saved: dict[int, torch.UntypedStorage] = {}
    parts = [0]

    def recompute(part: Callable[..., Any], *inputs: Any) -> Any:
        """In place of torch's checkpoint: its inputs are kept, what is inside is not."""
        inner_saved: dict[int, torch.UntypedStorage] = {}
        _add_storages(saved, inputs)
        with _record_saved(inner_saved):
            output = part(*inputs)
        parts.append(_total_bytes(inner_saved))
        return output

    if checkpointing:
        unet._set_gradient_checkpointing(True, recompute)
    inputs = {name: torch.empty(batch, *shape) for name, shape in spec.example.items()}
    with (
        capture_outputs(unet, spec.hooked_modules) as features,
        _record_saved(saved),
        autocast(torch.device("cpu"), precision),
    ):
        predict_with_unet(unet, inputs["latents"], torch.empty(batch), inputs)
    return _total_bytes(saved), max(parts), sum(feature.numel() for feature in features.values())


@contextmanager
def _record_saved(saved: dict[int, torch.UntypedStorage]) -> Iterator[None]:
    """Note the storage of each tensor that autograd keeps."""

    def record(tensor: Tensor) -> Tensor:
        _add_storages(saved, [tensor])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        yield


def _add_storages(saved: dict[int, torch.UntypedStorage], tensors: Iterable[object]) -> None:
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()


def _total_bytes(saved: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in saved.values())
