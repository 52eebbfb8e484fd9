"""Draw the benchmark's prompts with a student, or another's model, at every stage."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    names, either = ("finetuned", "latents", "out", "report"), ("pruned", "distilled", "base")
    with stage_context("draw", __doc__, argv, *names, team=True, optional=either) as ctx:
        from prunella.models.pipeline import located
        from prunella.sampling.benchmark_images import draw_gallery
        from prunella.sampling.gallery import FOREIGN, TRAINED, stage_folders

        params, paths = ctx.params, ctx.paths
        name, stages = paths.out.name, FOREIGN if paths.base else TRAINED
        folders = stage_folders(lambda stage: located(getattr(paths, stage)), params.benchmark.quantised, stages)
        drawn = {
            f"{name}/{stage}": draw_gallery(
                params.benchmark,
                name=f"{name}/{stage}",
                model=model,
                latents=paths.latents,
                out=paths.out / stage,
                device=ctx.device,
            )
            for stage, model in folders.items()
        }
        if ctx.first:
            count = next(iter(drawn.values()))["pictures"]
            ctx.done(f"{name}: {count} pictures each of {len(drawn)} models", {"models": drawn})


if __name__ == "__main__":
    main()
