"""Measure what the teacher, every student and others' models cost: size, operations, memory, latency in turns."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("cost", __doc__, argv, "teacher", "models", "bases", "report") as ctx:
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.profiling.cost import measure_costs

        params, paths = ctx.params, ctx.paths
        image_size = params.encode.resolution
        folder_by_model = {student: paths.models / student for student in params.students}
        folder_by_model |= {name: resolve_teacher_dir(paths.bases / f"{name}.json") for name in params.finetune.base}
        folder_by_variant = {
            f"{name}{suffix}": folder
            for name, folder in folder_by_model.items()
            for suffix in ("", *(f"/{bits}" for bits in params.benchmark.quantised))
        }
        report = measure_costs(
            params.benchmark,
            models={"teacher": resolve_teacher_dir(paths.teacher)} | folder_by_variant,
            size=(image_size, image_size),
            device=ctx.device,
        )
        medians_text = ", ".join(f"{name} {entry['latency_ms_p50']:.0f}" for name, entry in report["models"].items())
        ctx.finish(f"median latency in ms: {medians_text}", report)


if __name__ == "__main__":
    main()
