"""`prunella students`, `plan`: which students can be made, and what each keeps of its teacher."""

import argparse
from pathlib import Path
from typing import Any

from prunella.cli.arguments import (
    ORIGINAL_TEACHERS,
    STUDENT_HELP,
    TEACHER_HELP,
    Commands,
    add_command,
    find_student_plan_file,
    load_student_plan,
)
from prunella.errors import UserError


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    students_parser = add_command(
        commands, "students", "list the students that can be made, with what they cost", _run_students
    )
    students_parser.add_argument("--teacher", help=f"{TEACHER_HELP} (default: all originals)")
    plan_parser = add_command(commands, "plan", "show what a student keeps of its teacher", _run_plan)
    plan_parser.add_argument("student", help=STUDENT_HELP)
    plan_parser.add_argument("--teacher", help=f"{TEACHER_HELP} (default: the original of the plan's family)")
    plan_parser.add_argument("--svg", action="store_true", help="draw it as SVG")
    plan_parser.add_argument("--out", type=Path, help="with --svg: file to write (default: standard output)")


def _run_students(args: argparse.Namespace) -> None:
    from prunella.models.reference_configs import load_reference_configs, load_teacher_config
    from prunella.reporting.student_table import LEGEND, build_student_table
    from prunella.reporting.summary import format_table

    for teacher_name in [args.teacher] if args.teacher else load_reference_configs():
        teacher_unet_config = load_teacher_config(teacher_name)
        print(f"{teacher_name} ({_format_teacher_family(teacher_unet_config, teacher_name)})")
        print(format_table(build_student_table(teacher_unet_config, teacher_name)), end="\n\n", flush=True)
    print(LEGEND)


def _format_teacher_family(teacher_unet_config: dict[str, Any], teacher_name: str) -> str:
    from prunella.models.families import FAMILIES, describe_unet_shape, detect_teacher_family
    from prunella.pruning.layout import find_matching_plan

    if matching_layout := find_matching_plan(teacher_unet_config):
        return f"a student of the layout of {matching_layout.name}; those that keep less"
    if (name := detect_teacher_family(teacher_unet_config)) is None:
        raise UserError(
            f"--teacher: {teacher_name} is of no known family (its UNet has {describe_unet_shape(teacher_unet_config)})"
        )
    return FAMILIES[name].title


def _run_plan(args: argparse.Namespace) -> None:
    if args.out and not args.svg:
        raise UserError("--out: goes with --svg")
    if args.svg:
        _write_plan_svg(args)
    else:
        _print_plan(args)


def _print_plan(args: argparse.Namespace) -> None:
    from prunella.models.reference_configs import load_teacher_config
    from prunella.reporting.plan_explanation import explain_plan, read_plan_evidence
    from prunella.reporting.plan_text import format_plan_text

    plan = load_student_plan(args.student)
    print(format_plan_text(plan, load_teacher_config(args.teacher or ORIGINAL_TEACHERS[plan.family])))
    print("\nA pair: a resnet, with its attention where the stage has one; counted from 0.")
    if plan_evidence := read_plan_evidence(find_student_plan_file(args.student)):
        print("\n" + explain_plan(plan_evidence))


def _write_plan_svg(args: argparse.Namespace) -> None:
    from prunella.reporting.plan_explanation import read_plan_evidence
    from prunella.reporting.plan_svg import render_plan_svg

    plan_evidence = read_plan_evidence(find_student_plan_file(args.student))
    svg_text = render_plan_svg(load_student_plan(args.student), plan_evidence.get("parts"))
    if args.out:
        args.out.write_text(svg_text, encoding="utf-8")
    else:
        print(svg_text, end="")
