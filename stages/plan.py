"""Find the plan of a student, among the user's own or the shipped ones."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("plan", __doc__, argv, "plans", "out") as ctx:
        from prunella.pruning.plan import find_plan

        source = find_plan(ctx.paths.out.stem, ctx.paths.plans)
        ctx.paths.out.parent.mkdir(parents=True, exist_ok=True)
        ctx.paths.out.write_bytes(source.read_bytes())
        ctx.done(f"{ctx.paths.out.stem}: {source}")


if __name__ == "__main__":
    main()
