"""Find the plan of a student, among the user's own or the shipped ones; or choose it, where the student says so."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("plans", "teacher", "latents", "latency", "out", "evidence")
    with stage_context("plan", __doc__, argv, *names, section="plan", team=True) as ctx:
        from prunella.planning.named import copied

        planning, paths, student = ctx.params.plan, ctx.paths, ctx.paths.out.stem
        if student not in planning.students:
            ctx.done(f"{student}: {copied(student, paths.plans, paths.out, paths.evidence)}")
            return
        from prunella.models.pipeline import teacher_folder
        from prunella.planning.search import chosen, said

        report = chosen(
            planning,
            student,
            teacher=teacher_folder(paths.teacher),
            latents=paths.latents,
            table=paths.latency,
            out=paths.out,
            evidence=paths.evidence,
            device=ctx.device,
        )
        if ctx.first:
            for point in report["curve"]:  # of quality against size
                ctx.run.metrics(int(point["params"]), {"curve.error": point["error"]})
            ctx.run.artifact(paths.evidence)
            ctx.done(said(report), report)


if __name__ == "__main__":
    main()
