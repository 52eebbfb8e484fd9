"""Draw the benchmark's prompts with the teacher."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("draw_teacher", __doc__, argv, "teacher", "latents", "out", "report", distributed=True) as ctx:
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.sampling.benchmark_images import generate_benchmark_images

        params, paths = ctx.params, ctx.paths
        result = generate_benchmark_images(
            params.benchmark,
            name="teacher",
            model_dir=resolve_teacher_dir(paths.teacher),
            latents_dir=paths.latents,
            out=paths.out,
            device=ctx.device,
        )
        if ctx.is_main_process:
            ctx.finish(f"{result['pictures']} pictures", {"models": {"teacher": result}})


if __name__ == "__main__":
    main()
