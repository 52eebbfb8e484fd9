"""The door of a stage: arguments and params in, a run in MLflow around the work, one line and a report out."""

import argparse
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prunella.compute.launch import is_launched, launch, rank
from prunella.errors import UserError
from prunella.params import Params, did_you_mean, read_params
from prunella.pipeline.disk_full import explain_disk_full, remove_tmp_files
from prunella.pipeline.gc_tuning import relax_gc
from prunella.pipeline.input_guard import InputGuard
from prunella.pipeline.progress import format_stage_position
from prunella.pruning.plan import check_students
from prunella.tracking.datasets import list_datasets
from prunella.tracking.process import exit_with_parent
from prunella.tracking.redact import redact
from prunella.tracking.run import StageRun, repo_root, start_stage_run

PARAMS_DIGEST_VAR = "PRUNELLA_BEGUN_WITH"  # digest of the parameters that the launcher of several processes read
# Stages whose --out is named after a student, a set, a base or a teacher.
STAGES_PER_ENTRY = ("teachers", "generate", "base", "plan", "prune", "distill", "finetune", "export")
# The stages that may ask the Hub, for a model or for data.
NETWORK_STAGES = ("teacher", "teachers", "generate", "base", "filter", "encode")


class StageContext:
    """The context of a stage: `params` (all of them), its paths as attributes, `device`, and its MLflow `run`."""

    def __init__(self, stage: str, paths: argparse.Namespace, params: Params):
        self.stage, self.paths, self.params = stage, paths, params
        self.run = StageRun()

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that logs and reports, of several that do the stage's work together."""
        return rank() == 0

    @property
    def device(self) -> str:
        from prunella.compute.device import resolve_device

        return resolve_device(self.params.runtime)

    def finish(self, summary: str, report: dict[str, Any] | None = None) -> None:
        """Say in one line what the stage did; write its report to --report and tell MLflow."""
        if report is not None:
            self.run.log_report(report)
            if path := getattr(self.paths, "report", None):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                self.run.log_artifact(path)
        print(f"{self.stage}: {summary}", flush=True)


@contextmanager
def run_stage(
    stage: str,
    description: str,
    argv: list[str] | None,
    *path_options: str,
    section: str | None = None,
    distributed: bool = False,
    log_to_mlflow: bool = True,
    per_dataset: bool = False,
    optional_paths: tuple[str, ...] = (),
) -> Iterator[StageContext]:
    """Open a stage whose command line `argv` (None: this process's) gives a path for each of `path_options`, as --name
    PATH.

    Those of `optional_paths` may be left out, and are None then.
    The whole of params.yaml is checked first. With `distributed` the stage runs in `runtime.processes` processes, of
    which the first alone logs and reports. With `per_dataset` it also works on an entry of `finetune.data`, which
    --own names: that then stands for the sections `filter` and `encode`. Without `log_to_mlflow` MLflow hears nothing.
    A UserError ends the stage with its message alone and status 1, as do inputs that changed while it ran and a full
    disk. SIGTERM ends it with status 143 and Ctrl-C with 130, so that DVC never takes a
    half-done result for a finished one.
    """
    parser = argparse.ArgumentParser(description=description)
    for name in path_options:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in optional_paths:
        parser.add_argument(f"--{name}", type=Path)
    if per_dataset:
        parser.add_argument("--own", metavar="NAME", help="the entry of finetune.data to work on")
    paths = parser.parse_args(argv)
    relax_gc()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    exit_with_parent()
    silence_libraries(offline=stage not in NETWORK_STAGES)
    try:
        inputs = InputGuard("@".join([stage, *_entry_names(stage, paths)]))  # before anything is read of them
        if (
            inputs.under_dvc
            and not is_launched()
            and (position := format_stage_position(inputs.address, inputs.params))
        ):
            print(position, flush=True)
        params = select_dataset(read_params(), getattr(paths, "own", None))
        check_students(params.students, auto_students=params.plan.students)
        if is_launched() and os.environ.get(PARAMS_DIGEST_VAR, inputs.digest) != inputs.digest:
            raise UserError("params.yaml changed while the processes started; run the stage again")
        single_process = stage == "plan" and paths.out.stem not in params.plan.students  # nothing to be shared
        if distributed and not single_process and params.runtime.processes > 1 and not is_launched():
            os.environ[PARAMS_DIGEST_VAR] = inputs.digest
            launch(params.runtime)
        context = StageContext(stage, paths, params)
        name = " ".join([stage, *_entry_names(stage, paths)])
        input_datasets = list_datasets(inputs.spec.deps)
        with (
            start_stage_run(name, params.model_dump(), input_datasets)
            if context.is_main_process and log_to_mlflow
            else nullcontext(StageRun()) as context.run
        ):
            if section:
                context.run.log_params(getattr(params, section).model_dump())
            yield context
            if context.is_main_process:
                inputs.check()
    except UserError as error:
        sys.exit(redact(f"{stage}: {error}"))
    except KeyboardInterrupt:
        print(f"{stage}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        output_paths = [
            path for path in vars(paths).values() if isinstance(path, Path)
        ]  # not --own, nor what is left out
        if not (message := explain_disk_full(error, [Path(repo_root() / "work"), *output_paths])):
            raise
        remove_tmp_files(output_paths)
        sys.exit(f"{stage}: {message}")


def _entry_names(stage: str, paths: argparse.Namespace) -> list[str]:
    if stage in ("draw", "score"):
        return [paths.report.name.removesuffix(".json")]
    if getattr(paths, "own", None):
        return [paths.own]
    # A plan is NAME.yaml, a pinned base NAME.json.
    return [paths.out.name.removesuffix(".yaml").removesuffix(".json")] if stage in STAGES_PER_ENTRY else []


def select_dataset(params: Params, name: str | None) -> Params:
    """The parameters with an entry of `finetune.data` in place of `filter` and `encode`."""
    if name is None:
        return params
    if name not in params.finetune.data:
        raise UserError(f"finetune.data: {did_you_mean('entry', name, sorted(params.finetune.data))}")
    dataset = params.finetune.data[name]
    return params.model_copy(update={"filter": dataset.filter, "encode": dataset.encode})


def silence_libraries(offline: bool = True) -> None:
    """No chatter from libraries that the user can do nothing about (torchvision is not needed here)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for library in ("torchao", "torch.utils._pytree"):  # which diffusers imports where it is: kernels of other devices
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
