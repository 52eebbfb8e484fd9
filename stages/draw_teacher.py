"""Draw the benchmark's prompts with the teacher."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("draw_teacher", __doc__, argv, "teacher", "latents", "out", "report", team=True) as ctx:
        from prunella.models.pipeline import teacher_folder
        from prunella.sampling.benchmark_images import draw_gallery

        params, paths = ctx.params, ctx.paths
        drawn = draw_gallery(
            params.benchmark,
            name="teacher",
            model=teacher_folder(paths.teacher),
            latents=paths.latents,
            out=paths.out,
            device=ctx.device,
        )
        if ctx.first:
            ctx.done(f"{drawn['pictures']} pictures", {"models": {"teacher": drawn}})


if __name__ == "__main__":
    main()
