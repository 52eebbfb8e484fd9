"""Train the distilled student on a narrow domain."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("teacher", "latents", "student", "out", "curves", "report")
    with stage_context("finetune", __doc__, argv, *names, section="finetune", team=True, optional=("main",)) as ctx:
        from prunella.compute.device import place
        from prunella.models.pipeline import located, teacher_folder
        from prunella.params import untuned
        from prunella.sampling.class_images import class_latents
        from prunella.tracking.training_callback import TrainingWatch
        from prunella.training.finetune import finetune
        from prunella.training.pass_on import pass_on

        params, paths = ctx.params, ctx.paths
        if paths.out.name in untuned(params):
            if ctx.first:
                said = f"{paths.out.name}: not tuned (finetune.students), passed on as it is"
                ctx.done(said, pass_on(paths.student, paths.out, paths.curves))
            return
        student = located(paths.student)  # a folder, or pinned by stage base
        report = finetune(
            params.finetune,
            teacher=teacher_folder(paths.teacher),
            student=student,
            **{name: getattr(paths, name) for name in ("latents", "main", "out", "curves")},
            placement=place(params.runtime, ctx.device),
            draw_class=lambda: class_latents(params.finetune, student, paths.latents, ctx.device),
            checkpoint_every=params.watch.checkpoint_every,
            observer=TrainingWatch(params.watch, ctx.run),
        )
        if ctx.first:
            task = f"held-out task error {report['heldout'].get('task', float('nan')):.4f}"
            ctx.done(f"{paths.out.name}: {report['steps']} steps on {report['pairs']} pairs, {task}", report)


if __name__ == "__main__":
    main()
