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

AnswerT = TypeVar("AnswerT")
MANY_EPOCHS = 100  # times that a picture is seen; SD-Tiny saw its million 16 times, BK-SDM its 212,776 60 times
MAX_MEMORY_GB = 1024  # GB of one GPU; beyond it lies a slip of the keyboard
DESCRIPTION = "write params.yaml for your checkpoint, images and GPU; on a terminal it asks for what is missing"


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(commands, "init", DESCRIPTION, _run_init)
    parser.add_argument(
        "--teacher", help="a diffusers pipeline folder, a .safetensors checkpoint, or a Hub id owner/model"
    )
    parser.add_argument("--images", help="folder of captioned images, of Parquet files or of webdataset tars")
    parser.add_argument("--student", help="as `prunella students` lists them")
    parser.add_argument("--gpu-memory", metavar="GB", help="of the GPU that will train (default: of the one here)")
    parser.add_argument(
        "--caption-keywords",
        nargs="*",
        default=[],
        metavar="WORD",
        help="fine-tune on pairs whose caption has one of these words",
    )
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write (default: params.yaml)")
    parser.add_argument("--force", action="store_true", help="replace a file that holds changes of yours")


def _run_init(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    _check_overwrite(args.out, args.force)
    missing_flags = [f"--{name}" for name in ("teacher", "images", "student") if getattr(args, name) is None]
    if missing_flags and not sys.stdin.isatty():
        raise UserError(f"{', '.join(missing_flags)}: missing; on a terminal `prunella init` asks instead")
    try:
        params_file, summary = _build_from_answers(args)
    except (EOFError, KeyboardInterrupt):
        raise UserError("no more answers; nothing is written") from None
    from prunella.storage.files import atomic_write_text

    atomic_write_text(args.out, params_file.text)
    print(
        "\n".join(
            [
                f"{args.out}: {summary}",
                *_format_params_facts(params_file),
                "",
                "Next:",
                *_format_next_commands(args.out),
            ]
        )
    )


def _check_overwrite(out: Path, force: bool) -> None:
    """The committed default is there to be replaced; git has it. Raises UserError for a file with changes."""
    from prunella.params.recipes import DEFAULTS

    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; a file such as {out / 'params.yaml'} is expected")
    if out.exists() and not force and out.read_bytes() != DEFAULTS.read_bytes():
        raise UserError(f"{out}: is there, with changes of its own; --force replaces it, --out FILE writes another")


def _build_from_answers(args: argparse.Namespace) -> tuple["ParamsFile", str]:
    """The file for the answers on the line and at the terminal, and in words what it is for."""
    from prunella.cli.wizard.checkpoint import detect_checkpoint
    from prunella.cli.wizard.images import detect_dataset
    from prunella.cli.wizard.params_file import build_params_file

    checkpoint = _resolve_answer(
        "--teacher", args.teacher, "Checkpoint (folder, .safetensors file or Hub id)", detect_checkpoint
    )
    dataset = _resolve_answer("--images", args.images, "Folder of captioned images", detect_dataset)
    plan = _resolve_answer(
        "--student",
        args.student,
        f"Student ({_format_available_students(checkpoint)})",
        lambda name: _find_fitting_plan(name, checkpoint),
    )
    memory_gb = _resolve_answer(
        "--gpu-memory", args.gpu_memory or _detect_gpu_memory(), "Memory of the GPU, GB", _parse_gigabytes
    )
    if checkpoint.family is None:
        checkpoint = checkpoint.with_family_defaults(plan.family)
        print(f"{checkpoint.name} is not downloaded: taken for {checkpoint}, whose student {plan.name} is", flush=True)
    print(f"reckoning what {plan.name} takes …", flush=True)
    command = ["prunella", "init", "--teacher", checkpoint.name, "--images", dataset.path, "--student", plan.name]
    command += [
        "--gpu-memory",
        f"{memory_gb:g}",
        *(["--caption-keywords", *args.caption_keywords] if args.caption_keywords else []),
    ]
    params_file = build_params_file(checkpoint, dataset, plan, memory_gb, args.caption_keywords, shlex.join(command))
    return params_file, f"{plan.name} of {checkpoint}, on {dataset}, after the recipe {params_file.recipe}"


def _resolve_answer(flag: str, answer: str | None, question: str, parse_answer: Callable[[str], AnswerT]) -> AnswerT:
    """The meaning of an answer: the flag's, or the terminal's, which is asked until it can be understood."""
    if answer is not None:
        try:
            return parse_answer(answer)
        except UserError as error:
            raise UserError(f"{flag}: {error}") from None
    while True:
        try:
            return parse_answer(input(f"{question}: ").strip())
        except UserError as error:
            print(error)


def _format_available_students(checkpoint: "Checkpoint") -> str:
    from prunella.pruning.plan import STUDENTS

    return ", ".join(name for name, plan in STUDENTS.items() if checkpoint.family in (plan.family, None))


def _find_fitting_plan(name: str, checkpoint: "Checkpoint") -> "Plan":
    from prunella.models.families import FAMILIES
    from prunella.pruning.plan import STUDENTS, check_students

    check_students([name])
    if checkpoint.family not in (STUDENTS[name].family, None):
        teacher_title = FAMILIES[STUDENTS[name].family].title
        raise UserError(f"{name} is made of {teacher_title}; {checkpoint} has {_format_available_students(checkpoint)}")
    return STUDENTS[name]


def _parse_gigabytes(text: str) -> float:
    try:
        memory_gb = float(text)
    except ValueError:
        memory_gb = 0.0
    if not 0 < memory_gb <= MAX_MEMORY_GB:
        raise UserError(f"{text!r}; a number of GB such as 24 is expected")
    return memory_gb


def _detect_gpu_memory() -> str | None:
    """Memory of this machine's GPU. Raises UserError where there is none, and nobody to be asked."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f}"
    if not sys.stdin.isatty():
        raise UserError("--gpu-memory: no GPU is seen here; say how many GB the one that will train has, as 24")
    return None


def _format_params_facts(params_file: "ParamsFile") -> list[str]:
    params, distill = params_file.params, params_file.params.distill
    samples_per_step, num_samples = (
        distill.batch_size * distill.gradient_accumulation_steps,
        params.filter.samples - params.encode.heldout,
    )
    num_epochs = distill.steps * samples_per_step / num_samples
    samples_text = f"{num_samples:,} pairs" + (" at most" if params.filter.source == "webdataset" else "")
    hint = "; lower it for so few, or have pictures made: docs/data.md" if num_epochs > MANY_EPOCHS else ""
    keywords = ", ".join(params.finetune.caption_keywords)
    config_hint = "teacher.config: null takes the original's from the Hub; or name a folder of the same kind"
    return [
        *([f"  configs   {config_hint}"] if params.teacher.source == "file" else []),
        f"  memory    batches of {distill.batch_size}, {distill.gradient_accumulation_steps} a step; "
        f"{params_file.gpu_fit}",
        f"  training  {distill.steps:,} steps of {samples_per_step} pictures, {num_epochs:,.0f} times each of "
        f"{samples_text}; "
        f"as published (distill.steps){hint}",
        "  tuning    "
        f"{f'on captions with {keywords}' if keywords else 'none (finetune.students, finetune.caption_keywords)'}",
    ]


def _format_next_commands(out: Path) -> list[str]:
    """The next two commands, as a shell finds them, where the graph is."""
    bin_prefix, quoted_path = "" if shutil.which("prunella") else ".venv/bin/", shlex.quote(str(out))
    is_default = out == Path("params.yaml")
    check_command = f"  {bin_prefix}prunella check" + ("" if is_default else f" {quoted_path}")
    run_command = (
        f"  {bin_prefix}dvc repro" if is_default else f"  cp {quoted_path} params.yaml && {bin_prefix}dvc repro"
    )
    missing_repo_hints = (
        [] if Path("dvc.yaml").is_file() else ["in a clone of Prunella's repository, since no dvc.yaml is here"]
    )
    return [check_command, run_command, *missing_repo_hints]
