"""Build a student from its plan, with the teacher's weights."""

from prunella.context import stage_context

with stage_context("prune", __doc__, None, "teacher", "plan", "out", section="prune") as it:
    from prunella.models.pipeline import teacher_folder
    from prunella.pruning.prune import pruned

    kept, whole = pruned(it.params.prune, teacher_folder(it.paths.teacher), it.paths.plan, it.paths.out)
    it.run.report({"params": kept, "params_teacher": whole})
    it.done(f"{it.paths.out.name} has {kept:,} of the UNet's {whole:,} parameters ({100 * kept / whole:.1f} %)")
