"""Train the distilled student on a narrow domain."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("latents", "student", "out", "curves", "report")
    with stage_context("finetune", __doc__, argv, *names, section="finetune", team=True) as ctx:
        from prunella.compute.device import place
        from prunella.tracking.watch import TrainingWatch
        from prunella.training.finetune import finetune

        params, paths = ctx.params, ctx.paths
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
