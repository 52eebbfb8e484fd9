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

from prunella.compute.launch import launch, launched, rank
from prunella.errors import UserError
from prunella.params import Params, read_params, unknown
from prunella.pipeline.disk_full import no_room, remove_halves
from prunella.pipeline.gc_tuning import collect_seldom
from prunella.pipeline.input_guard import Inputs
from prunella.pipeline.progress import place
from prunella.pruning.plan import check_students
from prunella.tracking.datasets import datasets
from prunella.tracking.process import end_with_starter
from prunella.tracking.redact import hidden
from prunella.tracking.run import Run, root, stage_run

BEGUN_WITH = "PRUNELLA_BEGUN_WITH"  # digest of the parameters that the launcher of several processes read
# Stages whose --out is named after a student, a set, a base or a teacher.
PER_ENTRY = ("teachers", "generate", "base", "plan", "prune", "distill", "finetune", "export")
# The stages that may ask the Hub, for a model or for data.
ASKING = ("teacher", "teachers", "generate", "base", "filter", "encode")


class StageContext:
    """What a stage is given: `params` (all of them), its paths as attributes, `device`, and its MLflow `run`."""

    def __init__(self, stage: str, paths: argparse.Namespace, params: Params):
        self.stage, self.paths, self.params = stage, paths, params
        self.run = Run()

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and reports, of several that do the stage's work together."""
        return rank() == 0

    @property
    def device(self) -> str:
        from prunella.compute.device import device

        return device(self.params.runtime)

    def done(self, line: str, report: dict[str, Any] | None = None) -> None:
        """Say in one line what the stage did; write its report to --report and tell MLflow."""
        if report is not None:
            self.run.report(report)
            if path := getattr(self.paths, "report", None):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                self.run.artifact(path)
        print(f"{self.stage}: {line}", flush=True)


@contextmanager
def stage_context(
    stage: str,
    about: str,
    argv: list[str] | None,
    *names: str,
    section: str | None = None,
    team: bool = False,
    logged: bool = True,
    own: bool = False,
    optional: tuple[str, ...] = (),
) -> Iterator[StageContext]:
    """Open a stage whose command line `argv` (None: this process's) gives a path for each of `names`, as --name PATH.

    Those of `optional` may be left out, and are None then.
    The whole of params.yaml is checked first. With `team` the stage runs in `runtime.processes` processes, of which the
    first alone logs and reports. With `own` it also works on an entry of `finetune.data`, which --own names: that then
    stands for the sections `filter` and `encode`. Without `logged` MLflow hears nothing. A UserError ends the stage
    with its message alone and status 1, as do inputs that changed while it ran and a full disk. SIGTERM ends it with
    status 143 and Ctrl-C with 130, so that DVC never takes a half-done result for a finished one.
    """
    parser = argparse.ArgumentParser(description=about)
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in optional:
        parser.add_argument(f"--{name}", type=Path)
    if own:
        parser.add_argument("--own", metavar="NAME", help="the entry of finetune.data to work on")
    paths = parser.parse_args(argv)
    collect_seldom()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end_with_starter()
    quiet(offline=stage not in ASKING)
    try:
        inputs = Inputs("@".join([stage, *_student(stage, paths)]))  # before anything is read of them
        if inputs.by_dvc and not launched() and (at := place(inputs.address, inputs.params)):
            print(at, flush=True)
        params = with_own(read_params(), getattr(paths, "own", None))
        check_students(params.students, chosen=params.plan.students)
        if launched() and os.environ.get(BEGUN_WITH, inputs.digest) != inputs.digest:
            raise UserError("params.yaml changed while the processes started; run the stage again")
        alone = stage == "plan" and paths.out.stem not in params.plan.students  # nothing to be shared
        if team and not alone and params.runtime.processes > 1 and not launched():
            os.environ[BEGUN_WITH] = inputs.digest
            launch(params.runtime)
        it = StageContext(stage, paths, params)
        name = " ".join([stage, *_student(stage, paths)])
        reads = datasets(inputs.entry.deps)
        with stage_run(name, params.model_dump(), reads) if it.first and logged else nullcontext(Run()) as it.run:
            if section:
                it.run.params(getattr(params, section).model_dump())
            yield it
            if it.first:
                inputs.check()
    except UserError as error:
        sys.exit(hidden(f"{stage}: {error}"))
    except KeyboardInterrupt:
        print(f"{stage}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        written = [path for path in vars(paths).values() if isinstance(path, Path)]  # not --own, nor what is left out
        if not (full := no_room(error, [Path(root() / "work"), *written])):
            raise
        remove_halves(written)
        sys.exit(f"{stage}: {full}")


def _student(stage: str, paths: argparse.Namespace) -> list[str]:
    if stage in ("draw", "score"):
        return [paths.report.name.removesuffix(".json")]
    if getattr(paths, "own", None):
        return [paths.own]
    # A plan is NAME.yaml, a pinned base NAME.json.
    return [paths.out.name.removesuffix(".yaml").removesuffix(".json")] if stage in PER_ENTRY else []


def with_own(params: Params, name: str | None) -> Params:
    """The parameters with an entry of `finetune.data` in place of `filter` and `encode`."""
    if name is None:
        return params
    if name not in params.finetune.data:
        raise UserError(f"finetune.data: {unknown('entry', name, sorted(params.finetune.data))}")
    own = params.finetune.data[name]
    return params.model_copy(update={"filter": own.filter, "encode": own.encode})


def quiet(offline: bool = True) -> None:
    """No chatter from libraries that the user can do nothing about (torchvision is not needed here)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for library in ("torchao", "torch.utils._pytree"):  # which diffusers imports where it is: kernels of other devices
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
