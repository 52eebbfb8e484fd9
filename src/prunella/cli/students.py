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
    from prunella.models.reference_configs import load_reference_configs, load_teacher_config
    from prunella.reporting.student_table import LEGEND, build_student_table
    from prunella.reporting.summary import format_table

    for teacher in [given.teacher] if given.teacher else load_reference_configs():
        config = load_teacher_config(teacher)
        print(f"{teacher} ({_family_title(config, teacher)})")
        print(format_table(build_student_table(config, teacher)), end="\n\n", flush=True)
    print(LEGEND)


def _family_title(config: dict[str, Any], teacher: str) -> str:
    from prunella.models.families import FAMILIES, describe_unet_shape, detect_teacher_family
    from prunella.pruning.layout import find_matching_plan

    if known := find_matching_plan(config):
        return f"a student of the layout of {known.name}; those that keep less"
    if (name := detect_teacher_family(config)) is None:
        raise UserError(f"--teacher: {teacher} is of no known family (its UNet has {describe_unet_shape(config)})")
    return FAMILIES[name].title


def _plan(given: argparse.Namespace) -> None:
    from prunella.models.reference_configs import load_teacher_config
    from prunella.reporting.plan_explanation import explain_plan, read_plan_evidence
    from prunella.reporting.plan_text import format_plan_text

    plan = named_plan(given.student)
    print(format_plan_text(plan, load_teacher_config(given.teacher or ORIGINAL[plan.family])))
    print("\nA pair: a resnet, with its attention where the stage has one; counted from 0.")
    if told := read_plan_evidence(plan_file(given.student)):
        print("\n" + explain_plan(told))


def _draw(given: argparse.Namespace) -> None:
    from prunella.reporting.plan_explanation import read_plan_evidence
    from prunella.reporting.plan_svg import render_plan_svg

    told = read_plan_evidence(plan_file(given.student))
    drawn = render_plan_svg(named_plan(given.student), told.get("parts"))
    if given.out:
        given.out.write_text(drawn, encoding="utf-8")
    else:
        print(drawn, end="")
