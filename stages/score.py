"""Score a student, or another's model, at every stage: pictures by metrics, its UNet against the teacher's."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    names, teacher = ("finetuned", "drawn", "latents", "pairs", "report"), ("teacher", "taught", "predictions")
    with stage_context("score", __doc__, argv, *names, *teacher, optional=("pruned", "distilled", "base")) as ctx:
        from prunella.evaluation.score import score_student
        from prunella.models.pipeline import located, teacher_folder
        from prunella.sampling.gallery import FOREIGN, TRAINED, stage_folders

        params, paths = ctx.params, ctx.paths
        stages = FOREIGN if paths.base else TRAINED
        report = score_student(
            params.benchmark,
            words=params.finetune.words,
            student=paths.drawn.name,
            models=stage_folders(lambda stage: located(getattr(paths, stage)), params.benchmark.quantised, stages),
            teacher=teacher_folder(paths.teacher),
            latents=paths.latents,
            manifest=paths.pairs,
            drawn=paths.drawn,
            taught=paths.taught,
            predictions=paths.predictions,
            device=ctx.device,
        )
        errors = [
            f"{name} {entry['output_error']:.4f}" for name, entry in report["models"].items() if "output_error" in entry
        ]
        ctx.done(f"output error: {', '.join(errors)}", report)


if __name__ == "__main__":
    main()
