"""`prunella carry`: a LoRA made for the teacher, as one for a student."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command
from prunella.errors import UserError
from prunella.export.resolve_model import MODEL_STAGES, MODELS_DIR

SHOWN = 8  # modules that are named


def register(commands: Commands) -> None:
    """Add the command."""
    about = "carry a LoRA that was made for the teacher over to a student, as stock diffusers loads it"
    carry = add_command(commands, "carry", about, _carry)
    carry.add_argument("lora", type=Path, help="a .safetensors file, named as diffusers, peft or kohya name them")
    carry.add_argument("student", help="a student's name, or its folder")
    carry.add_argument("--teacher", type=Path, default=Path("models/teacher.json"), help="pinned, or a folder")
    carry.add_argument("--out", type=Path, help="file to write (default: LORA-STUDENT.safetensors beside the LoRA)")


def _carry(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.pruning.lora_transfer import transfer_lora

    student = _folder(given.student)
    out = given.out or given.lora.with_name(f"{given.lora.stem}-{student.name}.safetensors")
    if not given.teacher.exists():
        raise UserError(f"--teacher: there is no {given.teacher}; name the folder of the model that the LoRA is for")
    done = transfer_lora(given.lora, student, given.teacher, out)
    print(
        f"{out}: {len(done.modules)} modules of the UNet, {done.text_encoder_modules} of text encoders, for {student}"
    )
    if done.unmatched:
        more = f" and {len(done.unmatched) - SHOWN} more" if len(done.unmatched) > SHOWN else ""
        print(f"without a counterpart in the student: {', '.join(done.unmatched[:SHOWN])}{more}")


def _folder(student: str) -> Path:
    if Path(student).is_dir():
        return Path(student)
    for stage in MODEL_STAGES:
        if (folder := MODELS_DIR / stage / student).is_dir():
            return folder
    raise UserError(f"{student}: neither a folder nor a student that is in models/; `dvc repro` makes them")
