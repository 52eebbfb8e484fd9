"""Score a student, or another's model, at every stage: pictures by metrics, its UNet against the teacher's."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names = ("finetuned", "images", "latents", "pairs", "report", "teacher", "teacher-images", "predictions")
    with run_stage("score", __doc__, argv, *names, optional_paths=("pruned", "distilled", "base")) as ctx:
        from prunella.evaluation.score import score_student
        from prunella.models.pipeline import resolve_pipeline_dir, resolve_teacher_dir
        from prunella.sampling.gallery import BASE_STAGES, STUDENT_STAGES, map_stage_folders

        params, paths = ctx.params, ctx.paths
        stages = BASE_STAGES if paths.base else STUDENT_STAGES
        report = score_student(
            params.benchmark,
            keywords=params.finetune.caption_keywords,
            student=paths.images.name,
            models=map_stage_folders(
                lambda stage: resolve_pipeline_dir(getattr(paths, stage)), params.benchmark.quantised, stages
            ),
            teacher_dir=resolve_teacher_dir(paths.teacher),
            latents=paths.latents,
            manifest=paths.pairs,
            images_dir=paths.images,
            teacher_images_dir=paths.teacher_images,
            predictions=paths.predictions,
            device=ctx.device,
        )
        error_texts = [
            f"{name} {entry['output_error']:.4f}" for name, entry in report["models"].items() if "output_error" in entry
        ]
        ctx.finish(f"output error: {', '.join(error_texts)}", report)


if __name__ == "__main__":
    main()
