"""Score the teacher's pictures, and write its predictions on the held-out pairs, which students are held against."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names = ("teacher", "latents", "pairs", "images", "predictions", "report")
    with run_stage("score_teacher", __doc__, argv, *names) as ctx:
        from prunella.evaluation.score import score_teacher
        from prunella.models.pipeline import resolve_teacher_dir

        params, paths = ctx.params, ctx.paths
        report = score_teacher(
            params.benchmark,
            teacher_dir=resolve_teacher_dir(paths.teacher),
            latents=paths.latents,
            manifest=paths.pairs,
            images_dir=paths.images,
            predictions=paths.predictions,
            device=ctx.device,
        )
        unavailable_reasons = report["unavailable"]
        measured_metrics = [name for name in params.benchmark.metrics if name not in unavailable_reasons]
        missing_lines = [f"not measured: {name}: {reason}" for name, reason in unavailable_reasons.items()]
        ctx.finish(
            "\n".join([f"measured: {', '.join(measured_metrics) or 'the output error alone'}", *missing_lines]), report
        )


if __name__ == "__main__":
    main()
