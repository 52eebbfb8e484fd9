"""Measure how long each part of the teacher takes here, once, where a student's budget is in milliseconds."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("latency", __doc__, argv, "teacher", "latents", "out", logged=False) as ctx:
        from prunella.models.pipeline import teacher_folder
        from prunella.planning.latency import kept_or_measured

        params, paths = ctx.params, ctx.paths
        asked = [params.plan.students[name] for name in params.students if name in params.plan.students]
        wanted = any("ms" in student.budget for student in asked)
        teacher = teacher_folder(paths.teacher)
        ctx.done(kept_or_measured(params.plan.precision, wanted, teacher, paths.latents, paths.out, ctx.device))


if __name__ == "__main__":
    main()
