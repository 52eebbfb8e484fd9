"""Train the distilled student on a narrow domain."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("latents", "student", "out", "curves", "report")
    with stage_context("finetune", __doc__, argv, *names, section="finetune", team=True) as ctx:
        from prunella.compute.device import place
        from prunella.params import untuned
        from prunella.tracking.watch import TrainingWatch
        from prunella.training.finetune import finetune
        from prunella.training.pass_on import pass_on

        params, paths = ctx.params, ctx.paths
        if paths.out.name in untuned(params):
            if ctx.first:
                report = pass_on(paths.student, paths.out, paths.curves)
                ctx.done(f"{paths.out.name}: not tuned (finetune.students), passed on as it is", report)
            return
        report = finetune(
            params.finetune,
            latents=paths.latents,
            student=paths.student,
            out=paths.out,
            curves=paths.curves,
            placement=place(params.runtime, ctx.device),
            checkpoint_every=params.watch.checkpoint_every,
            observer=TrainingWatch(params.watch, ctx.run),
        )
        if ctx.first:
            task = report["heldout"].get("task", float("nan"))
            done = f"{report['steps']} steps on {report['pairs']} pairs, held-out task error {task:.4f}"
            ctx.done(f"{paths.out.name}: {done}", report)


if __name__ == "__main__":
    main()
