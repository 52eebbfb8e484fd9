"""Let the pruned student learn from the teacher."""

from prunella.doors import door

with door(
    "distill", __doc__, "teacher", "latents", "student", "out", "curves", "report", section="distill", team=True
) as it:
    from prunella.learning import distill
    from prunella.teachers import pinned_path
    from prunella.training.placing import place

    at, where = it.paths, place(it.params.runtime, it.device)
    report = distill(
        it.params.distill, pinned_path(at.teacher), at.latents, at.student, at.out, at.curves, where, it.run
    )
    if it.first:
        output = report["heldout"].get("output", float("nan"))
        it.done(
            f"{at.out.name}: {report['steps']} steps in {report['seconds']:.0f} s, held-out output error {output:.4f}",
            report,
        )
