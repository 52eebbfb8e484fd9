"""Draw the benchmark's prompts with a student at every stage."""

from functools import partial

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("pruned", "distilled", "finetuned", "latents", "out", "report")
    with stage_context("draw", __doc__, argv, *names, team=True) as ctx:
        from prunella.evaluation.gallery.draw import draw_gallery
        from prunella.evaluation.gallery.shards import stage_folders

        params, paths = ctx.params, ctx.paths
        student = paths.out.name
        drawn = {
            f"{student}/{stage}": draw_gallery(
                params.benchmark,
                name=f"{student}/{stage}",
                model=model,
                latents=paths.latents,
                out=paths.out / stage,
                device=ctx.device,
            )
            for stage, model in stage_folders(partial(getattr, paths), params.benchmark.quantised).items()
        }
        if ctx.first:
            count = next(iter(drawn.values()))["pictures"]
            ctx.done(f"{student}: {count} pictures each of {len(drawn)} models", {"models": drawn})


if __name__ == "__main__":
    main()
