"""Measure what the teacher, every student and others' models cost: size, operations, memory, latency in turns."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("cost", __doc__, argv, "teacher", "models", "bases", "report") as ctx:
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.profiling.cost import measure_costs

        params, paths = ctx.params, ctx.paths
        side = params.encode.resolution
        own = {student: paths.models / student for student in params.students}
        own |= {name: resolve_teacher_dir(paths.bases / f"{name}.json") for name in params.finetune.base}
        costed = {
            f"{name}{ending}": folder
            for name, folder in own.items()
            for ending in ("", *(f"/{bits}" for bits in params.benchmark.quantised))
        }
        report = measure_costs(
            params.benchmark,
            models={"teacher": resolve_teacher_dir(paths.teacher)} | costed,
            size=(side, side),
            device=ctx.device,
        )
        medians = ", ".join(f"{name} {entry['latency_ms_p50']:.0f}" for name, entry in report["models"].items())
        ctx.finish(f"median latency in ms: {medians}", report)


if __name__ == "__main__":
    main()
