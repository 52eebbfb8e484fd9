"""Train the distilled student on a narrow domain."""

from prunella.doors import door

with door("finetune", __doc__, "latents", "student", "out", "curves", "report", section="finetune") as it:
    from prunella.learning import finetune

    at = it.paths
    report = finetune(it.params.finetune, at.latents, at.student, at.out, at.curves, it.device, it.run)
    task = report["heldout"]["task"]
    it.done(
        f"{at.out.name}: {report['steps']} steps on {report['pairs']} pairs, held-out task error {task:.4f}", report
    )
