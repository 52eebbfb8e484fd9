"""Say what the teacher is, check it, and pin it by its files' hashes; its weights stay where they are."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("teacher", __doc__, argv, "out", section="teacher") as ctx:
        from prunella.models.pinning import write_pin
        from prunella.models.teacher import pin_teacher
        from prunella.pruning.layout import is_student

        teacher_pin, location = write_pin(
            ctx.paths.out,
            lambda previous_pin: pin_teacher(ctx.params.teacher, previous_pin, accepts_student=is_student),
        )
        ctx.run.log_artifact(ctx.paths.out)
        ctx.finish(
            f"{location}: family {teacher_pin['family']}, {teacher_pin['prediction_type']}, "
            f"{len(teacher_pin['files'])} files"
        )


if __name__ == "__main__":
    main()
