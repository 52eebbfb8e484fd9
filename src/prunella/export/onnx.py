"""A student for ONNX Runtime: text encoders, UNet and VAE decoder, of any batch and size.

A folder as diffusers and Optimum have them (unet/model.onnx, …), with tokenizers and scheduler, so that it holds all
that drawing needs, and export.json, which says how near to torch it is and what either takes.
"""

import copy
import json
import logging
import math
import shutil
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunella.errors import UserError
from prunella.export.folders import check_replaceable
from prunella.export.onnx_modules import Part, Size, parts
from prunella.models.pipeline import load_pipeline, without_checker
from prunella.profiling.cost import hardware
from prunella.profiling.timing import Turns
from prunella.storage.files import atomic_write_text, whole_folder

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
NEAR = {"fp32": 1e-4, "fp16": 1e-2}  # the largest difference from torch in fp32, of an output's largest value
NOTES = "export.json"  # by which such a folder is known
BESIDE = ("tokenizer", "tokenizer_2", "scheduler", "model_index.json")
TRACED: tuple[int, Size] = (2, (16, 24))  # nowhere 1, which the exporter would take for a constant
OTHER: tuple[int, Size] = (3, (16, 8))  # what is compared beside the model's own size
ROUNDS = 6  # in which both are timed
Report = dict[str, Any]


def write_onnx(folder: Path, out: Path, dtype: str) -> Report:
    """Export the pipeline `folder` to the folder `out`, computing in `dtype`; what its export.json holds.

    Written beside and renamed, after every part is within NEAR of torch. Raises UserError where it is not, where a part
    cannot be exported, where ONNX is not installed, and where `out` holds something else.
    """
    check_installed()
    check_replaceable(out, NOTES)
    pipeline = load_pipeline(folder, dtype=torch.float32, **without_checker(folder))
    side = pipeline.unet.config.sample_size
    with whole_folder(out) as half:
        report: Report = {
            "dtype": dtype,
            "latents": [pipeline.unet.config.in_channels, side, side],
            "scaling_factor": float(pipeline.vae.config.scaling_factor),
            "hardware": hardware("cpu") | {"onnxruntime": version("onnxruntime")},
            "parts": {part.name: _exported(part, half, dtype, (side, side)) for part in parts(pipeline)},
        }
        for name in BESIDE:
            _copy(folder / name, half / name)
        atomic_write_text(half / NOTES, json.dumps(report, indent=1) + "\n")
    return report


def check_dtype(dtype: str) -> None:
    """Raises UserError where ONNX Runtime does not compute in it."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: ONNX Runtime computes in fp32 or fp16 here; name one of them")


def check_installed() -> None:
    """Raises UserError, naming what is missing, where ONNX cannot be written and run."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"--to onnx needs {', '.join(missing)}, not installed here: pip install 'prunella[onnx]'")


def _copy(origin: Path, to: Path) -> None:
    if origin.is_dir():
        shutil.copytree(origin, to)
    elif origin.is_file():
        shutil.copy2(origin, to)


def _exported(part: Part, out: Path, dtype: str, own: Size) -> Report:
    """Write NAME/model.onnx and compare it: {"dtype", "difference", "torch_ms_p50", "onnx_ms_p50", "speedup", …}."""
    path = out / part.name / "model.onnx"
    path.parent.mkdir(parents=True)
    stored = "fp32" if part.overflows else dtype
    part.module.eval()
    _write(part, part.module if stored == "fp32" else copy.deepcopy(part.module).to(DTYPES[stored]), path)
    found = _compared(part, path, own)
    if found["difference"] > NEAR[stored]:
        hint = "; --dtype fp32 may do" if stored == "fp16" else ""
        raise UserError(
            f"{part.name}: ONNX Runtime differs from torch by {found['difference']:.1e} of the largest value, and at "
            f"most {NEAR[stored]:.0e} is asked of {stored}{hint}"
        )
    return {"dtype": stored} | found


@torch.no_grad()
def _write(part: Part, module: nn.Module, path: Path) -> None:
    given = part.example(*TRACED)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else a line for each package that it has no need of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        try:
            torch.onnx.export(
                module,
                tuple(given.values()),
                path,
                input_names=list(given),
                output_names=list(part.outputs),
                dynamic_shapes=tuple(part.inputs[name] for name in given),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(f"{part.name}: torch cannot export it to ONNX: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def _compared(part: Part, path: Path, own: Size) -> Report:
    """The largest difference at two batches and sizes; milliseconds of both at the model's own size, batch 1."""
    session = _session(path)
    differences = [_difference(part, session, part.example(*shape)) for shape in (OTHER, (1, own))]
    given = part.example(1, own)
    feeds = {name: value.numpy() for name, value in given.items()}
    turns = Turns(
        {"torch": lambda: part.module(*given.values()), "onnx": lambda: session.run(None, feeds)}, rounds=ROUNDS
    )
    times = {f"{name}_ms_p50": turns.latency(name)["latency_ms_p50"] for name in ("torch", "onnx")}
    return {"difference": max(differences), **times, "speedup": turns.speedup("onnx", "torch")}


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as torch has, which it is compared with
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _difference(part: Part, session: Any, given: dict[str, Tensor]) -> float:
    ours = part.module(*given.values())
    theirs = session.run(list(part.outputs), {name: value.numpy() for name, value in given.items()})
    pairs = zip(ours if isinstance(ours, tuple) else (ours,), theirs, strict=True)
    return max(_apart(mine.numpy(), other) for mine, other in pairs)


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference as a share of the largest value of `ours`; infinite where there is no such number."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return math.inf
    return float(np.abs(ours - theirs).max() / max(float(np.abs(ours).max()), 1e-12))
