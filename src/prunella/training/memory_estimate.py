"""What a training needs of the device's memory, reckoned before it begins: how much of a batch fits, what knobs save.

Weights, gradients and moments follow from the parameters. What the backward pass needs is found by running the student
for one and for two examples on tensors without content, and adding up what autograd keeps.
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
PLANNED = 0.8  # of the memory that is there; kernels' buffers and gaps between tensors take the rest
Example = dict[str, tuple[int, ...]]  # shapes of one example: "latents" CHW, "states" LD, for SDXL "pooled" and "sizes"


class Subject(NamedTuple):
    """What is trained: UNet configs of student and teacher (None: none), the shapes of one example, on what."""

    student: dict
    teacher: dict | None
    example: Example
    processes: int = 1
    gpu: bool = False
    hooked: tuple[str, ...] = ()  # modules of the student whose outputs are compared with the teacher's
    beside: int = 0  # bytes of what else is on the device: VAE and text encoders, for pictures
    passes: int = 1  # that wait for one backward pass: pictures of a thing, and of its class
    learned: int | None = None  # how many numbers are learned; None: all of the student's
    parts: int = 1  # that weights, gradients and moments are cut into, of which a process has one (FSDP)


class Need(NamedTuple):
    """Bytes of a training, by what they are for."""

    weights: int  # the student's, in fp32, and their copies in the precision of the computation
    gradients: int
    optimizer: int
    average: int  # EMA
    teacher: int
    beside: int
    activations: int  # what the backward pass needs of a batch
    features: int  # of a batch: the teacher's, and the differences in fp32

    @property
    def total(self) -> int:
        return sum(self)


def needed(subject: Subject, settings: DiffusionTraining, at_once: int | None = None) -> Need:
    """What one of the subject's processes needs with `at_once` examples in a pass (None: its share of a batch).

    Buffers that a kernel needs while it runs are not counted. Where weights are cut into parts, two layers are whole at
    a time; what autocast made of the others waits for the backward pass, unless checkpointing does without.
    """
    bits = 2 if settings.precision in AUTOCAST_DTYPES else 4
    size, batch = parameters(subject.student), settings.batch_size // subject.processes if at_once is None else at_once
    learned = size if subject.learned is None else subject.learned
    kept, elements = _known(
        json.dumps([subject.student, subject.example, subject.gpu, subject.hooked]),
        json.dumps([settings.precision, settings.gradient_checkpointing]),
    )
    cast, parts = bits if bits < 4 else 0, subject.parts
    whole, theirs = (
        2 * largest(config) if config and parts > 1 else 0 for config in (subject.student, subject.teacher)
    )
    copies = whole if parts > 1 and settings.gradient_checkpointing else size
    return Need(
        weights=4 * size // parts + 4 * whole + cast * copies,
        gradients=4 * learned // parts + 4 * min(whole, learned),
        optimizer={"adamw": 8, "adamw-8bit": 2}[settings.optimizer] * learned // parts,
        average=4 * learned // parts if settings.ema_decay else 0,
        teacher=bits * (parameters(subject.teacher) // parts + theirs) if subject.teacher else 0,
        beside=subject.beside,
        activations=batch * kept * subject.passes,
        features=batch * elements * (bits + 4),
    )


def examples_at_once(asked: Literal["auto"] | int, subject: Subject, settings: DiffusionTraining, memory: int) -> int:
    """How many examples of its batch a process of the subject takes in one pass, of `memory` bytes on its device.

    "auto" takes the whole where that fits. Else the largest part that divides it, so that all passes have one shape;
    where none is half of what fits, parts as equal as can be. One example is taken whether it fits or not.
    """
    share = settings.batch_size // subject.processes
    if asked != "auto":
        return min(asked, share)
    none, one = (needed(subject, settings, count).total for count in (0, 1))
    fits = max(1, min(share, int((PLANNED * memory - none) // (one - none))))
    divisor = max(count for count in range(1, fits + 1) if share % count == 0)
    return divisor if 2 * divisor >= fits else -(-share // -(-share // fits))


def memory_of(device: torch.device, processes: int = 1) -> int:
    """Bytes of memory for each of the `processes` that train together: a GPU's, or a part of this machine's."""
    return there(device) // (1 if device.type == "cuda" else processes)


def knobs(subject: Subject, settings: DiffusionTraining, at_once: int | None = None) -> dict[str, int]:
    """What each change would save, in bytes, by the change; none changes how many examples a step sees."""
    at_once = at_once or settings.batch_size // subject.processes
    now = needed(subject, settings, at_once).total
    saved = {}
    if at_once > 1:
        saved[f"runtime.micro_batch: {at_once // 2}"] = now - needed(subject, settings, at_once // 2).total
    changes: dict[str, dict[str, Any]] = {}
    if not settings.gradient_checkpointing:
        changes["gradient_checkpointing: true"] = {"gradient_checkpointing": True}
    if settings.optimizer == "adamw":
        changes["optimizer: adamw-8bit"] = {"optimizer": "adamw-8bit"}
    if settings.ema_decay:
        changes["ema_decay: 0"] = {"ema_decay": 0.0}
    if settings.precision not in AUTOCAST_DTYPES:
        changes["precision: bf16"] = {"precision": "bf16"}
    if subject.processes > 1 and subject.parts == 1 and settings.optimizer == "adamw" and not subject.beside:
        cut = subject._replace(parts=subject.processes)
        saved["runtime.fsdp: true"] = now - needed(cut, settings, at_once).total
    for said, change in changes.items():
        saved[said] = now - needed(subject, settings.model_copy(update=change), at_once).total
    return saved


def advice(savings: dict[str, int]) -> str:
    """One line that says which knob buys how much, the largest first."""
    worth = sorted(((saved, said) for said, saved in savings.items() if saved > 0), reverse=True)
    return "; ".join(f"{said} saves {saved / GB:.2f} GB" for saved, said in worth)


def there(device: torch.device) -> int:
    """Bytes of memory on the device: a GPU's, or this machine's, or what the container may have of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    whole = psutil.virtual_memory().total
    return whole if allowed == "max" else min(whole, int(allowed))


def tokens(teacher: Path) -> int:
    """How many tokens a pipeline folder's text encoder takes."""
    config = json.loads((teacher / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    return config.get("max_position_embeddings", 77)  # CLIP's own, in transformers' configs of it


def parameters(config: dict) -> int:
    """How many numbers the UNet of a config has."""
    return _parameters(json.dumps(config))


def largest(config: dict) -> int:
    """How many numbers are put together at once where weights are cut into parts: a layer's, or all that is in none."""
    return _largest(json.dumps(config))


@lru_cache
def _parameters(config: str) -> int:
    return build_meta_unet(json.loads(config)).num_parameters()


@lru_cache
def _largest(config: str) -> int:
    unet = build_meta_unet(json.loads(config))
    sizes = [sum(part.numel() for part in unet.get_submodule(name).parameters()) for name in list_wrapped_modules(unet)]
    return max(*sizes, unet.num_parameters() - sum(sizes))


@lru_cache
def _known(subject: str, settings: str) -> tuple[int, int]:
    """`_kept` by what decides it, written as JSON: a run on tensors without content takes seconds."""
    student, example, gpu, hooked = json.loads(subject)
    shapes = {name: tuple(shape) for name, shape in example.items()}
    return _kept(Subject(student, None, shapes, gpu=gpu, hooked=tuple(hooked)), *json.loads(settings))


def _kept(subject: Subject, precision: Precision, checkpointing: bool) -> tuple[int, int]:
    """Of an example: the bytes that autograd keeps, and how many elements the features have that are listened to.

    With checkpointing, the bytes of the largest part that is run again are among them.
    """
    empty = build_meta_unet(subject.student)
    with FakeTensorMode(), torch.device("cpu"):
        unet = empty._apply(lambda part: torch.empty(part.shape, dtype=part.dtype)).train()
        if subject.gpu and precision in AUTOCAST_DTYPES:
            _norms_in_fp32(unet)
        one, two = (_run(unet, subject, precision, checkpointing, batch) for batch in (1, 2))
    kept, part, elements = (b - a for a, b in zip(one, two, strict=True))
    return kept + part, elements


def _norms_in_fp32(unet: nn.Module) -> None:
    """On a GPU autocast runs norms in fp32, as it does not on a CPU, and keeps what they are given in fp32."""
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _run(
    unet: UNet2DConditionModel, subject: Subject, precision: Precision, checkpointing: bool, batch: int
) -> tuple[int, int, int]:
    """Bytes kept, bytes of the largest part that is run again, elements of the features; of `batch` examples."""
    kept: dict[int, torch.UntypedStorage] = {}
    parts = [0]

    def again(part: Callable[..., Any], *inputs: Any) -> Any:
        """In place of torch's checkpoint: its inputs are kept, what is inside is not."""
        inside: dict[int, torch.UntypedStorage] = {}
        _note(kept, inputs)
        with _noting(inside):
            output = part(*inputs)
        parts.append(_size(inside))
        return output

    if checkpointing:
        unet._set_gradient_checkpointing(True, again)
    inputs = {name: torch.empty(batch, *shape) for name, shape in subject.example.items()}
    with capture_outputs(unet, subject.hooked) as seen, _noting(kept), autocast(torch.device("cpu"), precision):
        predict_with_unet(unet, inputs["latents"], torch.empty(batch), inputs)
    return _size(kept), max(parts), sum(feature.numel() for feature in seen.values())


@contextmanager
def _noting(kept: dict[int, torch.UntypedStorage]) -> Iterator[None]:
    """Note the storage of each tensor that autograd keeps."""

    def note(tensor: Tensor) -> Tensor:
        _note(kept, [tensor])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def _note(kept: dict[int, torch.UntypedStorage], tensors: Iterable[object]) -> None:
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()


def _size(kept: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in kept.values())
