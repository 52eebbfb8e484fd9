"""Measure how long each part of the teacher takes here, once, where a student's budget is in milliseconds."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("latency", __doc__, argv, "teacher", "latents", "out", log_to_mlflow=False) as ctx:
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.planning.latency import load_or_measure_latency

        params, paths = ctx.params, ctx.paths
        plan_requests = [params.plan.students[name] for name in params.students if name in params.plan.students]
        needs_latency = any("ms" in student.budget for student in plan_requests)
        teacher_dir = resolve_teacher_dir(paths.teacher)
        ctx.finish(
            load_or_measure_latency(
                params.plan.precision, needs_latency, teacher_dir, paths.latents, paths.out, ctx.device
            )
        )


if __name__ == "__main__":
    main()
