"""Train the distilled student on a narrow domain."""

from prunella.context import stage_context

with stage_context(
    "finetune", __doc__, None, "latents", "student", "out", "curves", "report", section="finetune", team=True
) as it:
    from prunella.compute.device import place
    from prunella.training.job import finetune

    at, where = it.paths, place(it.params.runtime, it.device)
    report = finetune(it.params.finetune, at.latents, at.student, at.out, at.curves, where, it.run)
    if it.first:
        task = report["heldout"].get("task", float("nan"))
        it.done(
            f"{at.out.name}: {report['steps']} steps on {report['pairs']} pairs, held-out task error {task:.4f}", report
        )
