"""Measure what the teacher and every student cost: size, operations, memory, and latency in turns."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("cost", __doc__, argv, "teacher", "models", "report") as ctx:
        from prunella.evaluation.cost import measure_costs
        from prunella.models.pipeline import teacher_folder

        params, paths = ctx.params, ctx.paths
        side = params.encode.resolution
        students = {
            f"{student}{ending}": paths.models / student
            for student in params.students
            for ending in ("", *(f"/{bits}" for bits in params.benchmark.quantised))
        }
        report = measure_costs(
            params.benchmark,
            models={"teacher": teacher_folder(paths.teacher)} | students,
            size=(side, side),
            device=ctx.device,
        )
        medians = ", ".join(f"{name} {entry['latency_ms_p50']:.0f}" for name, entry in report["models"].items())
        ctx.done(f"median latency in ms: {medians}", report)


if __name__ == "__main__":
    main()
