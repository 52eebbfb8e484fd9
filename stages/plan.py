"""Find the plan of a student, among the user's own or the shipped ones; or choose it, where the student says so."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names = ("plans", "teacher", "latents", "latency", "out", "evidence")
    with run_stage("plan", __doc__, argv, *names, section="plan", distributed=True) as ctx:
        from prunella.planning.named import copy_plan

        planning, paths, student = ctx.params.plan, ctx.paths, ctx.paths.out.stem
        if student not in planning.students:
            ctx.finish(f"{student}: {copy_plan(student, paths.plans, paths.out, paths.evidence)}")
            return
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.planning.search import format_search_result, search_plan

        report = search_plan(
            planning,
            student,
            teacher_dir=resolve_teacher_dir(paths.teacher),
            latents_dir=paths.latents,
            latency_table=paths.latency,
            plan_path=paths.out,
            evidence_path=paths.evidence,
            device=ctx.device,
        )
        if ctx.is_main_process:
            for point in report["curve"]:  # of quality against size
                ctx.run.log_metrics(int(point["params"]), {"curve.error": point["error"]})
            ctx.run.log_artifact(paths.evidence)
            ctx.finish(format_search_result(report), report)


if __name__ == "__main__":
    main()
