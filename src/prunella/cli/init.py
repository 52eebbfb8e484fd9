"""`prunella init`: a parameter file for one's own checkpoint, pictures and GPU."""

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prunella.cli.arguments import Commands, add_command
from prunella.errors import UserError

if TYPE_CHECKING:
    from prunella.cli.wizard.checkpoint import Checkpoint
    from prunella.cli.wizard.params_file import ParamsFile
    from prunella.pruning.plan import Plan

Answer = TypeVar("Answer")
OFTEN = 100  # times that a picture is seen; SD-Tiny saw its million 16 times, BK-SDM its 212,776 60 times
MOST_MEMORY = 1024  # GB of one GPU; beyond it lies a slip of the keyboard
ABOUT = (
    "write a parameter file for your checkpoint, your pictures and your GPU; on a terminal it asks for what is missing"
)


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    init = add_command(commands, "init", ABOUT, _init)
    init.add_argument(
        "--teacher", help="a diffusers pipeline folder, a .safetensors checkpoint, or a Hub id owner/model"
    )
    init.add_argument("--pictures", help="folder of captioned pictures, of Parquet files or of webdataset's tars")
    init.add_argument("--student", help="as `prunella students` lists them")
    init.add_argument("--gpu-memory", metavar="GB", help="of the GPU that will train (default: of the one here)")
    init.add_argument(
        "--words", nargs="*", default=[], help="tune the student on pairs whose caption holds one of them"
    )
    init.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write (default: params.yaml)")
    init.add_argument("--force", action="store_true", help="replace a file that holds changes of yours")


def _init(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    _check_free(given.out, given.force)
    lacking = [f"--{name}" for name in ("teacher", "pictures", "student") if getattr(given, name) is None]
    if lacking and not sys.stdin.isatty():
        raise UserError(f"{', '.join(lacking)}: missing; on a terminal `prunella init` asks instead")
    try:
        made, said = _answered(given)
    except (EOFError, KeyboardInterrupt):
        raise UserError("no more answers; nothing is written") from None
    from prunella.storage.files import atomic_write_text

    atomic_write_text(given.out, made.text)
    print("\n".join([f"{given.out}: {said}", *_facts(made), "", "Next:", *_next(given.out)]))


def _check_free(out: Path, force: bool) -> None:
    """The committed default is there to be replaced; git has it. Raises UserError for a file with changes."""
    from prunella.params.recipes import DEFAULTS

    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; a file such as {out / 'params.yaml'} is expected")
    if out.exists() and not force and out.read_bytes() != DEFAULTS.read_bytes():
        raise UserError(f"{out}: is there, with changes of its own; --force replaces it, --out FILE writes another")


def _answered(given: argparse.Namespace) -> tuple["ParamsFile", str]:
    """The file for the answers on the line and at the terminal, and in words what it is for."""
    from prunella.cli.wizard.checkpoint import detect_checkpoint
    from prunella.cli.wizard.images import detect_dataset
    from prunella.cli.wizard.params_file import build_params_file

    checkpoint = _settled(
        "--teacher", given.teacher, "Checkpoint (folder, .safetensors file or Hub id)", detect_checkpoint
    )
    pictures = _settled("--pictures", given.pictures, "Folder of captioned pictures", detect_dataset)
    plan = _settled(
        "--student", given.student, f"Student ({_students(checkpoint)})", lambda name: _fit(name, checkpoint)
    )
    memory = _settled("--gpu-memory", given.gpu_memory or _here(), "Memory of the GPU, GB", _gigabytes)
    if checkpoint.family is None:
        checkpoint = checkpoint.with_family_defaults(plan.family)
        print(f"{checkpoint.name} is not downloaded: taken for {checkpoint}, whose student {plan.name} is", flush=True)
    print(f"reckoning what {plan.name} takes …", flush=True)
    command = ["prunella", "init", "--teacher", checkpoint.name, "--pictures", pictures.path, "--student", plan.name]
    command += ["--gpu-memory", f"{memory:g}", *(["--words", *given.words] if given.words else [])]
    made = build_params_file(checkpoint, pictures, plan, memory, given.words, shlex.join(command))
    return made, f"{plan.name} of {checkpoint}, on {pictures}, after the recipe {made.recipe}"


def _settled(flag: str, given: str | None, question: str, understood: Callable[[str], Answer]) -> Answer:
    """What an answer means: the flag's, or the terminal's, which is asked until it can be understood."""
    if given is not None:
        try:
            return understood(given)
        except UserError as error:
            raise UserError(f"{flag}: {error}") from None
    while True:
        try:
            return understood(input(f"{question}: ").strip())
        except UserError as error:
            print(error)


def _students(checkpoint: "Checkpoint") -> str:
    from prunella.pruning.plan import STUDENTS

    return ", ".join(name for name, plan in STUDENTS.items() if checkpoint.family in (plan.family, None))


def _fit(name: str, checkpoint: "Checkpoint") -> "Plan":
    from prunella.models.families import FAMILIES
    from prunella.pruning.plan import STUDENTS, check_students

    check_students([name])
    if checkpoint.family not in (STUDENTS[name].family, None):
        wanted = FAMILIES[STUDENTS[name].family].title
        raise UserError(f"{name} is made of {wanted}; {checkpoint} has {_students(checkpoint)}")
    return STUDENTS[name]


def _gigabytes(text: str) -> float:
    try:
        memory = float(text)
    except ValueError:
        memory = 0.0
    if not 0 < memory <= MOST_MEMORY:
        raise UserError(f"{text!r}; a number of GB such as 24 is expected")
    return memory


def _here() -> str | None:
    """What the GPU of this machine has. Raises UserError where there is none, and nobody to be asked."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f}"
    if not sys.stdin.isatty():
        raise UserError("--gpu-memory: no GPU is seen here; say how many GB the one that will train has, as 24")
    return None


def _facts(made: "ParamsFile") -> list[str]:
    params, distill = made.params, made.params.distill
    seen, pairs = (
        distill.batch_size * distill.gradient_accumulation_steps,
        params.filter.samples - params.encode.heldout,
    )
    times = distill.steps * seen / pairs
    of = f"{pairs:,} pairs" + (" at most" if params.filter.source == "webdataset" else "")
    few = "; lower it for so few, or have pictures made: docs/data.md" if times > OFTEN else ""
    tuned = ", ".join(params.finetune.caption_keywords)
    configs = "teacher.config: null takes the original's from the Hub; or name a folder of the same kind"
    return [
        *([f"  configs   {configs}"] if params.teacher.source == "file" else []),
        f"  memory    batches of {distill.batch_size}, {distill.gradient_accumulation_steps} a step; {made.gpu_fit}",
        f"  training  {distill.steps:,} steps of {seen} pictures, {times:,.0f} times each of {of}; "
        f"as published (distill.steps){few}",
        "  tuning    "
        f"{f'on captions with {tuned}' if tuned else 'none (finetune.students, finetune.caption_keywords)'}",
    ]


def _next(out: Path) -> list[str]:
    """The next two commands, as a shell finds them, where the graph is."""
    where, file = "" if shutil.which("prunella") else ".venv/bin/", shlex.quote(str(out))
    usual = out == Path("params.yaml")
    check = f"  {where}prunella check" + ("" if usual else f" {file}")
    run = f"  {where}dvc repro" if usual else f"  cp {file} params.yaml && {where}dvc repro"
    lost = [] if Path("dvc.yaml").is_file() else ["in a clone of Prunella's repository, since no dvc.yaml is here"]
    return [check, run, *lost]
