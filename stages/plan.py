"""Find the plan of a student, among the user's own or the shipped ones."""

from prunella.context import stage_context

with stage_context("plan", __doc__, None, "plans", "out") as it:
    from prunella.pruning.plan import find_plan

    source = find_plan(it.paths.out.stem, it.paths.plans)
    it.paths.out.parent.mkdir(parents=True, exist_ok=True)
    it.paths.out.write_bytes(source.read_bytes())
    it.done(f"{it.paths.out.stem}: {source}")
