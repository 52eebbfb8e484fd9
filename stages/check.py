"""Refuse early what would be refused late, and students' names before any command that holds one."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("check", __doc__, argv, "out", logged=False) as ctx:
        from prunella.pipeline.preflight import check_parameters

        check_parameters(ctx.params)
        ctx.paths.out.parent.mkdir(parents=True, exist_ok=True)
        ctx.paths.out.write_text("{}\n", encoding="utf-8")  # for all students: another one re-runs nothing of theirs
        ctx.done(f"students {', '.join(ctx.params.students)}")


if __name__ == "__main__":
    main()
