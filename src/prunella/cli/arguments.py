"""What the command groups share: how a command is added, and how a student and a teacher are named on the line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunella.pruning.plan import Plan

Commands = argparse._SubParsersAction
ORIGINAL = {"sd": "sd15", "sdxl": "sdxl"}  # the published teacher of a family, where the line names none
TEACHER = "an original (sd15, sd21, sdxl) or a diffusers pipeline folder"
STUDENT = "a name in the catalogue, or a plan's YAML file"


def add_command(
    commands: Commands, name: str, about: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """A parser for `prunella NAME`, which calls `run` with the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def named_plan(student: str) -> Plan:
    """A student's plan, by its name in the catalogue or its YAML file. Raises UserError when unknown or not sound."""
    from prunella.pruning.plan import STUDENTS, read_plan

    return read_plan(student) if student.endswith((".yaml", ".yml")) else STUDENTS[student]
