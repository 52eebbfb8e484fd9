"""Check what later stages ask of the pairs that the filter kept, and of teacher and machine."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("check_pairs", __doc__, argv, "teacher", "pairs", "out", log_to_mlflow=False) as ctx:
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.pipeline.preflight import check_filtered_samples, check_run

        teacher_dir = resolve_teacher_dir(ctx.paths.teacher)
        num_samples, counts = check_filtered_samples(ctx.params, teacher_dir, ctx.paths.pairs)
        check_run(ctx.params, teacher_dir, num_samples)
        ctx.paths.out.parent.mkdir(parents=True, exist_ok=True)
        ctx.paths.out.write_text("{}\n", encoding="utf-8")  # always the same: other words re-run nothing of encode's
        ctx.finish(counts)


if __name__ == "__main__":
    main()
