"""Refuse early what would be refused late, and students' names before any command that holds one."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("check", __doc__, argv, "out", log_to_mlflow=False) as ctx:
        from prunella.pipeline.preflight import check_parameters

        check_parameters(ctx.params)
        ctx.paths.out.parent.mkdir(parents=True, exist_ok=True)
        ctx.paths.out.write_text("{}\n", encoding="utf-8")  # for all students: another one re-runs nothing of theirs
        ctx.finish(f"students {', '.join(ctx.params.students)}")


if __name__ == "__main__":
    main()
