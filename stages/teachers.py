"""Say what a further teacher is, check it, and pin it as the first is; its weights stay where they are."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("teachers", __doc__, argv, "out") as ctx:
        import json

        from prunella.errors import UserError
        from prunella.files import atomic_write_text
        from prunella.models.teacher import earlier_pin, pin_further

        out, name = ctx.paths.out, ctx.paths.out.stem
        if name not in ctx.params.teachers:
            raise UserError(f"teachers: the section has no entry {name!r}")
        earlier = earlier_pin(out)
        pinned = pin_further(ctx.params.teachers[name], earlier, f"teachers.{name}")
        if pinned != earlier:  # reading all weights takes a while; the same ones stay sound
            from prunella.models.pipeline import check_teacher

            check_teacher(pinned)
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json.dumps(pinned, indent=1) + "\n")
        ctx.run.artifact(out)
        where = pinned.get("path") or f"{pinned['id']} at {pinned['commit']}"
        ctx.done(f"{name}, {where}: family {pinned['family']}, {len(pinned['files'])} files")


if __name__ == "__main__":
    main()
