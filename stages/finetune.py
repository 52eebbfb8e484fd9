"""Train the distilled student on a narrow domain."""

from prunella.doors import door

with door("finetune", __doc__, "latents", "student", "out", "curves", "report", section="finetune", team=True) as it:
    from prunella.learning import finetune
    from prunella.training.placing import place

    at, where = it.paths, place(it.params.runtime, it.device)
    report = finetune(it.params.finetune, at.latents, at.student, at.out, at.curves, where, it.run)
    if it.first:
        task = report["heldout"].get("task", float("nan"))
        it.done(
            f"{at.out.name}: {report['steps']} steps on {report['pairs']} pairs, held-out task error {task:.4f}", report
        )
