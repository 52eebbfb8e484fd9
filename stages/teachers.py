"""Say what a further teacher is, check it, and pin it as the first is; its weights stay where they are."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("teachers", __doc__, argv, "out") as ctx:
        from prunella.errors import UserError
        from prunella.models.pinning import write_pin
        from prunella.models.teacher import pin_teacher
        from prunella.pruning.layout import is_student

        out, name = ctx.paths.out, ctx.paths.out.stem
        if name not in ctx.params.teachers:
            raise UserError(f"teachers: the section has no entry {name!r}")
        teacher_pin, location = write_pin(
            out,
            lambda previous_pin: pin_teacher(ctx.params.teachers[name], previous_pin, f"teachers.{name}", is_student),
        )
        ctx.run.log_artifact(out)
        ctx.finish(f"{name}, {location}: family {teacher_pin['family']}, {len(teacher_pin['files'])} files")


if __name__ == "__main__":
    main()
