"""Let the pruned student learn from the teacher."""

from prunella.doors import door

with door("distill", __doc__, "teacher", "latents", "student", "out", "curves", "report", section="distill") as it:
    from prunella.learning import distill
    from prunella.teachers import pinned_path

    at = it.paths
    report = distill(
        it.params.distill, pinned_path(at.teacher), at.latents, at.student, at.out, at.curves, it.device, it.run
    )
    output = report["heldout"]["output"]
    it.done(
        f"{at.out.name}: {report['steps']} steps in {report['seconds']:.0f} s, held-out output error {output:.4f}",
        report,
    )
