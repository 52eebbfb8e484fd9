"""Build a student from its plan, with the teacher's weights."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("prune", __doc__, argv, "teacher", "plan", "out", section="prune") as ctx:
        from prunella.models.pipeline import resolve_teacher_dir
        from prunella.pruning.prune import prune_to_folder

        paths = ctx.paths
        num_params, num_teacher_params = prune_to_folder(
            ctx.params.prune, resolve_teacher_dir(paths.teacher), paths.plan, paths.out
        )
        ctx.run.log_report({"params": num_params, "params_teacher": num_teacher_params})
        ctx.finish(
            f"{paths.out.name} has {num_params:,} of the UNet's {num_teacher_params:,} parameters "
            f"({100 * num_params / num_teacher_params:.1f} %)"
        )


if __name__ == "__main__":
    main()
