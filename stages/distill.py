"""Let the pruned student learn from the teacher."""

from prunella.context import stage_context

with stage_context(
    "distill", __doc__, None, "teacher", "latents", "student", "out", "curves", "report", section="distill", team=True
) as it:
    from prunella.compute.device import place
    from prunella.models.pipeline import teacher_folder
    from prunella.training.job import distill

    at, where = it.paths, place(it.params.runtime, it.device)
    report = distill(
        it.params.distill, teacher_folder(at.teacher), at.latents, at.student, at.out, at.curves, where, it.run
    )
    if it.first:
        output = report["heldout"].get("output", float("nan"))
        it.done(
            f"{at.out.name}: {report['steps']} steps in {report['seconds']:.0f} s, held-out output error {output:.4f}",
            report,
        )
