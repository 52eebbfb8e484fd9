"""Check what later stages ask of the pairs that the filter kept, and of teacher and machine."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("check_pairs", __doc__, argv, "teacher", "pairs", "out", logged=False) as ctx:
        from prunella.models.pipeline import teacher_folder
        from prunella.pipeline.preflight import check_pairs, check_run

        teacher = teacher_folder(ctx.paths.teacher)
        pairs, counts = check_pairs(ctx.params, teacher, ctx.paths.pairs)
        check_run(ctx.params, teacher, pairs)
        ctx.paths.out.parent.mkdir(parents=True, exist_ok=True)
        ctx.paths.out.write_text("{}\n", encoding="utf-8")  # always the same: other words re-run nothing of encode's
        ctx.done(counts)


if __name__ == "__main__":
    main()
