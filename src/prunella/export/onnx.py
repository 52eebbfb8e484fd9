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
from prunella.export.onnx_modules import LatentSize, OnnxModule, build_onnx_modules
from prunella.models.pipeline import load_pipeline, no_safety_checker
from prunella.profiling.cost import describe_hardware
from prunella.profiling.timing import InterleavedTimer
from prunella.storage.files import atomic_folder, atomic_write_text

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
MAX_DIFFERENCE = {"fp32": 1e-4, "fp16": 1e-2}  # the largest difference from torch in fp32, of an output's largest value
REPORT_FILE = "export.json"  # by which such a folder is known
COPIED_FILES = ("tokenizer", "tokenizer_2", "scheduler", "model_index.json")
TRACE_SHAPE: tuple[int, LatentSize] = (2, (16, 24))  # nowhere 1, which the exporter would take for a constant
EXTRA_SHAPE: tuple[int, LatentSize] = (3, (16, 8))  # what is compared beside the model's own size
TIMING_ROUNDS = 6  # in which both are timed
OnnxReport = dict[str, Any]


def write_onnx(folder: Path, out: Path, dtype: str) -> OnnxReport:
    """Export the pipeline `folder` to the folder `out`, computing in `dtype`; what its export.json holds.

    Written beside and renamed, after every part is within NEAR of torch. Raises UserError where it is not, where a part
    cannot be exported, where ONNX is not installed, and where `out` holds something else.
    """
    check_onnx_installed()
    check_replaceable(out, REPORT_FILE)
    pipeline = load_pipeline(folder, dtype=torch.float32, **no_safety_checker(folder))
    latent_side = pipeline.unet.config.sample_size
    with atomic_folder(out) as tmp_dir:
        report: OnnxReport = {
            "dtype": dtype,
            "latents": [pipeline.unet.config.in_channels, latent_side, latent_side],
            "scaling_factor": float(pipeline.vae.config.scaling_factor),
            "hardware": describe_hardware("cpu") | {"onnxruntime": version("onnxruntime")},
            "parts": {
                onnx_module.name: _export_module(onnx_module, tmp_dir, dtype, (latent_side, latent_side))
                for onnx_module in build_onnx_modules(pipeline)
            },
        }
        for name in COPIED_FILES:
            _copy_path(folder / name, tmp_dir / name)
        atomic_write_text(tmp_dir / REPORT_FILE, json.dumps(report, indent=1) + "\n")
    return report


def check_onnx_dtype(dtype: str) -> None:
    """Raises UserError where ONNX Runtime does not compute in it."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: ONNX Runtime computes in fp32 or fp16 here; name one of them")


def check_onnx_installed() -> None:
    """Raises UserError, naming what is missing, where ONNX cannot be written and run."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"--to onnx needs {', '.join(missing)}, not installed here: pip install 'prunella[onnx]'")


def _copy_path(source: Path, destination: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, destination)
    elif source.is_file():
        shutil.copy2(source, destination)


def _export_module(onnx_module: OnnxModule, out: Path, dtype: str, latent_size: LatentSize) -> OnnxReport:
    """Write NAME/model.onnx and compare it: {"dtype", "difference", "torch_ms_p50", "onnx_ms_p50", "speedup", …}."""
    path = out / onnx_module.name / "model.onnx"
    path.parent.mkdir(parents=True)
    module_dtype = "fp32" if onnx_module.overflows else dtype
    onnx_module.module.eval()
    _write_onnx_module(
        onnx_module,
        onnx_module.module if module_dtype == "fp32" else copy.deepcopy(onnx_module.module).to(DTYPES[module_dtype]),
        path,
    )
    comparison = _compare_with_torch(onnx_module, path, latent_size)
    if comparison["difference"] > MAX_DIFFERENCE[module_dtype]:
        hint = "; --dtype fp32 may do" if module_dtype == "fp16" else ""
        raise UserError(
            f"{onnx_module.name}: ONNX Runtime differs from torch by {comparison['difference']:.1e} of the largest "
            "value, and at "
            f"most {MAX_DIFFERENCE[module_dtype]:.0e} is asked of {module_dtype}{hint}"
        )
    return {"dtype": module_dtype} | comparison


@torch.no_grad()
def _write_onnx_module(onnx_module: OnnxModule, module: nn.Module, path: Path) -> None:
    inputs = onnx_module.example_inputs(*TRACE_SHAPE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else a line for each package that it has no need of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        try:
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                path,
                input_names=list(inputs),
                output_names=list(onnx_module.outputs),
                dynamic_shapes=tuple(onnx_module.inputs[name] for name in inputs),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"{onnx_module.name}: torch cannot export it to ONNX: {str(error).splitlines()[0]}"
            ) from error


@torch.no_grad()
def _compare_with_torch(onnx_module: OnnxModule, path: Path, latent_size: LatentSize) -> OnnxReport:
    """The largest difference at two batches and sizes; milliseconds of both at the model's own size, batch 1."""
    session = _open_onnx_session(path)
    differences = [
        _max_difference(onnx_module, session, onnx_module.example_inputs(*shape))
        for shape in (EXTRA_SHAPE, (1, latent_size))
    ]
    inputs = onnx_module.example_inputs(1, latent_size)
    feeds = {name: value.numpy() for name, value in inputs.items()}
    timer = InterleavedTimer(
        {"torch": lambda: onnx_module.module(*inputs.values()), "onnx": lambda: session.run(None, feeds)},
        rounds=TIMING_ROUNDS,
    )
    times = {f"{name}_ms_p50": timer.latency(name)["latency_ms_p50"] for name in ("torch", "onnx")}
    return {"difference": max(differences), **times, "speedup": timer.speedup("onnx", "torch")}


def _open_onnx_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as torch has, which it is compared with
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _max_difference(onnx_module: OnnxModule, session: Any, inputs: dict[str, Tensor]) -> float:
    torch_outputs = onnx_module.module(*inputs.values())
    onnx_outputs = session.run(list(onnx_module.outputs), {name: value.numpy() for name, value in inputs.items()})
    pairs = zip(torch_outputs if isinstance(torch_outputs, tuple) else (torch_outputs,), onnx_outputs, strict=True)
    return max(_relative_difference(torch_output.numpy(), onnx_output) for torch_output, onnx_output in pairs)


def _relative_difference(expected: np.ndarray, actual: np.ndarray) -> float:
    """The largest difference as a share of the largest value of `expected`; infinite where there is no such number."""
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return math.inf
    return float(np.abs(expected - actual).max() / max(float(np.abs(expected).max()), 1e-12))
