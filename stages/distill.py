"""Let the pruned student learn from the teacher."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names = ("teacher", "latents", "phases", "student", "out", "curves", "report")
    with run_stage("distill", __doc__, argv, *names, section="distill", distributed=True) as ctx:
        from prunella.compute.device import make_placement
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.tracking.training_callback import TrackingCallback
        from prunella.training.distill import distill

        params, paths = ctx.params, ctx.paths
        report = distill(
            params.distill,
            teacher=resolve_teacher_dir(paths.teacher),
            latents=paths.latents,
            student=paths.student,
            out=paths.out,
            curves=paths.curves,
            placement=make_placement(params.runtime, ctx.device),
            checkpoint_every=params.watch.checkpoint_every,
            phases=paths.phases,
            observer=TrackingCallback(params.watch, ctx.run),
        )
        if ctx.is_main_process:
            output_error = report["heldout"].get("output", float("nan"))
            summary = f"{report['steps']} steps in {report['seconds']:.0f} s, held-out output error {output_error:.4f}"
            ctx.finish(f"{paths.out.name}: {summary}", report)


if __name__ == "__main__":
    main()
