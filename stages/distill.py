"""Let the pruned student learn from the teacher."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("teacher", "latents", "phases", "student", "out", "curves", "report")
    with stage_context("distill", __doc__, argv, *names, section="distill", team=True) as ctx:
        from prunella.compute.device import place
        from prunella.models.pipeline import teacher_folder
        from prunella.tracking.training_callback import TrainingWatch
        from prunella.training.distill import distill

        params, paths = ctx.params, ctx.paths
        report = distill(
            params.distill,
            teacher=teacher_folder(paths.teacher),
            latents=paths.latents,
            student=paths.student,
            out=paths.out,
            curves=paths.curves,
            placement=place(params.runtime, ctx.device),
            checkpoint_every=params.watch.checkpoint_every,
            phases=paths.phases,
            observer=TrainingWatch(params.watch, ctx.run),
        )
        if ctx.first:
            output = report["heldout"].get("output", float("nan"))
            done = f"{report['steps']} steps in {report['seconds']:.0f} s, held-out output error {output:.4f}"
            ctx.done(f"{paths.out.name}: {done}", report)


if __name__ == "__main__":
    main()
