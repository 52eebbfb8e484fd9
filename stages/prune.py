"""Build a student from its plan, with the teacher's weights."""

from prunella.doors import door

with door("prune", __doc__, "teacher", "plan", "out", section="prune") as it:
    from prunella.students.pruning import pruned
    from prunella.teachers import pinned_path

    kept, whole = pruned(it.params.prune, pinned_path(it.paths.teacher), it.paths.plan, it.paths.out)
    it.run.report({"params": kept, "params_teacher": whole})
    it.done(f"{it.paths.out.name} has {kept:,} of the UNet's {whole:,} parameters ({100 * kept / whole:.1f} %)")
