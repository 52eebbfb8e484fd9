"""Draw the benchmark's prompts with a student, or another's model, at every stage."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names, optional_names = ("finetuned", "latents", "out", "report"), ("pruned", "distilled", "base")
    with run_stage("draw", __doc__, argv, *names, distributed=True, optional_paths=optional_names) as ctx:
        from prunella.models.pipeline import resolve_pipeline_dir
        from prunella.sampling.benchmark_images import generate_benchmark_images
        from prunella.sampling.gallery import BASE_STAGES, STUDENT_STAGES, map_stage_folders

        params, paths = ctx.params, ctx.paths
        name, stages = paths.out.name, BASE_STAGES if paths.base else STUDENT_STAGES
        folders = map_stage_folders(
            lambda stage: resolve_pipeline_dir(getattr(paths, stage)), params.benchmark.quantised, stages
        )
        result_by_model = {
            f"{name}/{stage}": generate_benchmark_images(
                params.benchmark,
                name=f"{name}/{stage}",
                model_dir=model,
                latents_dir=paths.latents,
                out=paths.out / stage,
                device=ctx.device,
            )
            for stage, model in folders.items()
        }
        if ctx.is_main_process:
            num_images = next(iter(result_by_model.values()))["pictures"]
            ctx.finish(
                f"{name}: {num_images} pictures each of {len(result_by_model)} models", {"models": result_by_model}
            )


if __name__ == "__main__":
    main()
