"""`prunella convert-lora`: a LoRA made for the teacher, as one for a student."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command
from prunella.errors import UserError
from prunella.export.resolve_model import MODEL_STAGES, MODELS_DIR

MAX_SHOWN_MODULES = 8  # modules that are named


def register(commands: Commands) -> None:
    """Add the command."""
    description = "convert a LoRA of the teacher for a student"
    parser = add_command(commands, "convert-lora", description, _run_convert_lora)
    parser.add_argument("lora", type=Path, help="a .safetensors file with diffusers, peft or kohya names")
    parser.add_argument("student", help="a student's name, or its folder")
    parser.add_argument(
        "--teacher", type=Path, default=Path("models/teacher.json"), help="pinned teacher, or a pipeline folder"
    )
    parser.add_argument("--out", type=Path, help="file to write (default: LORA-STUDENT.safetensors beside the LoRA)")


def _run_convert_lora(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.pruning.lora_transfer import transfer_lora

    student_dir = _find_student_dir(args.student)
    out = args.out or args.lora.with_name(f"{args.lora.stem}-{student_dir.name}.safetensors")
    if not args.teacher.exists():
        raise UserError(f"--teacher: there is no {args.teacher}; name the folder of the model that the LoRA is for")
    report = transfer_lora(args.lora, student_dir, args.teacher, out)
    print(
        f"{out}: {len(report.modules)} modules of the UNet, {report.text_encoder_modules} of text encoders, for "
        f"{student_dir}"
    )
    if report.unmatched:
        suffix = (
            f" and {len(report.unmatched) - MAX_SHOWN_MODULES} more"
            if len(report.unmatched) > MAX_SHOWN_MODULES
            else ""
        )
        print(f"without a counterpart in the student: {', '.join(report.unmatched[:MAX_SHOWN_MODULES])}{suffix}")


def _find_student_dir(student: str) -> Path:
    if Path(student).is_dir():
        return Path(student)
    for stage in MODEL_STAGES:
        if (student_dir := MODELS_DIR / stage / student).is_dir():
            return student_dir
    raise UserError(f"{student}: neither a folder nor a student that is in models/; `dvc repro` makes them")
