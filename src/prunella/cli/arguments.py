"""Code that the command groups share: how a command is added, and how a student and a teacher are named on the line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prunella.errors import UserError
from prunella.export.resolve_model import MODEL_STAGES

if TYPE_CHECKING:
    from prunella.pruning.plan import Plan

Commands = argparse._SubParsersAction
CHOSEN_PLANS_DIR = Path("models/plans")  # of the plan stage
ORIGINAL_TEACHERS = {"sd": "sd15", "sdxl": "sdxl"}  # the published teacher of a family, where the line names none
TEACHER_HELP = "an original (sd15, sd21, sdxl) or a diffusers pipeline folder"
STUDENT_HELP = "a name in the catalogue, or a plan's YAML file"


def add_command(
    commands: Commands, name: str, description: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """A parser for `prunella NAME`, which calls `run` with the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    return parser


def add_stage_option(parser: argparse.ArgumentParser) -> None:
    """The option --stage of a command that takes a student."""
    help_text = "stage of the student: finetuned, distilled or pruned (default: the latest that exists)"
    parser.add_argument("--stage", choices=MODEL_STAGES, help=help_text)


def load_student_plan(student: str) -> Plan:
    """A student's plan, by its name in the catalogue or its YAML file. Raises UserError when unknown or not sound."""
    from prunella.pruning.plan import read_plan

    return read_plan(find_student_plan_file(student))


def find_student_plan_file(student: str) -> Path:
    """The file of a student's plan: itself, in the catalogue, or where the plan stage has written what it chose.

    Raises UserError where there is none.
    """
    from prunella.params import read_params
    from prunella.pruning.plan import STUDENTS, find_plan

    if student.endswith((".yaml", ".yml")):
        return Path(student)
    if student in list(STUDENTS):
        return find_plan(student)
    if (chosen_file := CHOSEN_PLANS_DIR / f"{student}.yaml").is_file():
        return chosen_file
    if Path("params.yaml").is_file() and student in read_params().plan.students:
        raise UserError(
            f"{student} is not chosen yet: `dvc repro plan@{student}` does that, once it is among the params' students"
        )
    return find_plan(student)
