"""`prunella students`, `plan`, `draw`: which students can be made, and what each keeps of its teacher."""

import argparse
from pathlib import Path
from typing import Any

from prunella.cli.arguments import ORIGINAL, STUDENT, TEACHER, Commands, add_command, named_plan, plan_file
from prunella.errors import UserError


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    students = add_command(commands, "students", "list the students that can be made, with what they cost", _students)
    students.add_argument("--teacher", help=f"{TEACHER} (default: all originals)")
    plan = add_command(commands, "plan", "say what a student keeps of its teacher", _plan)
    plan.add_argument("student", help=STUDENT)
    plan.add_argument("--teacher", help=f"{TEACHER} (default: the original of the plan's family)")
    draw = add_command(commands, "draw", "draw what a student keeps of its teacher, as SVG", _draw)
    draw.add_argument("student", help=STUDENT)
    draw.add_argument("--out", type=Path, help="file to write (default: standard output)")


def _students(given: argparse.Namespace) -> None:
    from prunella.models.reference_configs import originals, teacher_config
    from prunella.reporting.student_table import LEGEND, catalogue
    from prunella.reporting.summary import aligned

    for teacher in [given.teacher] if given.teacher else originals():
        config = teacher_config(teacher)
        print(f"{teacher} ({_family_title(config, teacher)})")
        print(aligned(catalogue(config, teacher)), end="\n\n", flush=True)
    print(LEGEND)


def _family_title(config: dict[str, Any], teacher: str) -> str:
    from prunella.models.families import FAMILIES, family, shape
    from prunella.pruning.layout import layout

    if known := layout(config):
        return f"a student of the layout of {known.name}; those that keep less"
    if (name := family(config)) is None:
        raise UserError(f"--teacher: {teacher} is of no known family (its UNet has {shape(config)})")
    return FAMILIES[name].title


def _plan(given: argparse.Namespace) -> None:
    from prunella.models.reference_configs import teacher_config
    from prunella.reporting.plan_explanation import evidence, reasons
    from prunella.reporting.plan_text import description

    plan = named_plan(given.student)
    print(description(plan, teacher_config(given.teacher or ORIGINAL[plan.family])))
    print("\nA pair: a resnet, with its attention where the stage has one; counted from 0.")
    if told := evidence(plan_file(given.student)):
        print("\n" + reasons(told))


def _draw(given: argparse.Namespace) -> None:
    from prunella.reporting.plan_explanation import evidence
    from prunella.reporting.plan_svg import svg

    told = evidence(plan_file(given.student))
    drawn = svg(named_plan(given.student), told.get("parts"))
    if given.out:
        given.out.write_text(drawn, encoding="utf-8")
    else:
        print(drawn, end="")
