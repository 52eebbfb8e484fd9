"""Score a student at every stage: its pictures by metrics, its UNet against the teacher's predictions."""

from functools import partial

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    student, teacher = ("pruned", "distilled", "finetuned", "drawn"), ("teacher", "taught", "predictions")
    with stage_context("score", __doc__, argv, *student, *teacher, "latents", "pairs", "report") as ctx:
        from prunella.evaluation.gallery.shards import stage_folders
        from prunella.evaluation.scores.score import score_student
        from prunella.models.pipeline import teacher_folder

        params, paths = ctx.params, ctx.paths
        report = score_student(
            params.benchmark,
            words=params.finetune.words,
            student=paths.drawn.name,
            models=stage_folders(partial(getattr, paths), params.benchmark.quantised),
            teacher=teacher_folder(paths.teacher),
            latents=paths.latents,
            manifest=paths.pairs,
            drawn=paths.drawn,
            taught=paths.taught,
            predictions=paths.predictions,
            device=ctx.device,
        )
        errors = ", ".join(f"{name} {entry['output_error']:.4f}" for name, entry in report["models"].items())
        ctx.done(f"output error: {errors}", report)


if __name__ == "__main__":
    main()
