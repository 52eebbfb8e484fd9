"""Say what the teacher is, check it, and pin it by its files' hashes; its weights stay where they are."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("teacher", __doc__, argv, "out", section="teacher") as ctx:
        from prunella.models.pinning import pin_to
        from prunella.models.teacher import pin
        from prunella.pruning.layout import is_student

        pinned, where = pin_to(ctx.paths.out, lambda earlier: pin(ctx.params.teacher, earlier, students=is_student))
        ctx.run.artifact(ctx.paths.out)
        ctx.done(f"{where}: family {pinned['family']}, {pinned['prediction_type']}, {len(pinned['files'])} files")


if __name__ == "__main__":
    main()
