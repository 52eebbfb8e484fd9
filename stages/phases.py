"""Look up the plans and teachers that phases of the distillation name, and check that each can follow the first."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("phases", __doc__, argv, "teacher", "teachers", "plans", "out", log_to_mlflow=False) as ctx:
        from prunella.training.phase_refs import write_phase_refs

        phases, paths = ctx.params.distill.phases, ctx.paths
        phase_refs = write_phase_refs(phases, paths.teacher, paths.teachers, paths.plans, paths.out)
        names = ", ".join([*phase_refs.plans, *phase_refs.teachers]) or "nothing that has to be looked up"
        ctx.finish(f"{len(phases)} phases name {names}")


if __name__ == "__main__":
    main()
