"""Build a student from its plan, with the teacher's weights."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("prune", __doc__, argv, "teacher", "plan", "out", section="prune") as ctx:
        from prunella.models.pipeline import teacher_folder
        from prunella.pruning.prune import pruned

        paths = ctx.paths
        kept, whole = pruned(ctx.params.prune, teacher_folder(paths.teacher), paths.plan, paths.out)
        ctx.run.report({"params": kept, "params_teacher": whole})
        ctx.done(f"{paths.out.name} has {kept:,} of the UNet's {whole:,} parameters ({100 * kept / whole:.1f} %)")


if __name__ == "__main__":
    main()
