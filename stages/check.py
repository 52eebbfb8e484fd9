"""Check params.yaml and the students' names before any command that holds one; the names come from whoever wrote it."""

from prunella.context import stage_context

with stage_context("check", __doc__, None, "out", logged=False) as it:
    it.paths.out.parent.mkdir(parents=True, exist_ok=True)
    it.paths.out.write_text(
        "{}\n", encoding="utf-8"
    )  # the same for all students: another one re-runs nothing of theirs
    it.done(f"students {', '.join(it.params.students)}")
