"""Train the distilled student on a narrow domain."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names, more = ("teacher", "latents", "student", "out", "curves", "report"), ("replay-latents",)
    with run_stage("finetune", __doc__, argv, *names, section="finetune", distributed=True, optional_paths=more) as ctx:
        from prunella.compute.device import make_placement
        from prunella.models.pipeline import resolve_pipeline_dir, resolve_teacher_dir
        from prunella.params import students_not_finetuned
        from prunella.sampling.class_images import make_class_latents
        from prunella.tracking.training_callback import TrackingCallback
        from prunella.training.finetune import finetune
        from prunella.training.pass_on import skip_finetune

        params, paths = ctx.params, ctx.paths
        if paths.out.name in students_not_finetuned(params):
            if ctx.is_main_process:
                report = skip_finetune(paths.student, paths.out, paths.curves)
                ctx.finish(f"{paths.out.name}: not tuned (finetune.students), passed on as it is", report)
            return
        student = resolve_pipeline_dir(paths.student)  # a folder, or pinned by stage base
        report = finetune(
            params.finetune,
            teacher=resolve_teacher_dir(paths.teacher),
            student=student,
            **{name: getattr(paths, name) for name in ("latents", "replay_latents", "out", "curves")},
            placement=make_placement(params.runtime, ctx.device),
            make_class_images=lambda: make_class_latents(params.finetune, student, paths.latents, ctx.device),
            checkpoint_every=params.watch.checkpoint_every,
            observer=TrackingCallback(params.watch, ctx.run),
        )
        if ctx.is_main_process:
            task_error_text = f"held-out task error {report['heldout'].get('task', float('nan')):.4f}"
            ctx.finish(f"{paths.out.name}: {report['steps']} steps, {report['pairs']} pairs, {task_error_text}", report)


if __name__ == "__main__":
    main()
