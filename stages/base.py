"""Say what a base of fine-tuning's own is, check it, and pin it as the teacher is; its weights stay where they are."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("base", __doc__, argv, "out") as ctx:
        import json

        from prunella.errors import UserError
        from prunella.files import atomic_write_text
        from prunella.models.teacher import earlier_pin, pin_base

        out, name = ctx.paths.out, ctx.paths.out.stem
        if name not in ctx.params.finetune.base:
            raise UserError(f"finetune.base: the section has no entry {name!r}")
        earlier = earlier_pin(out)
        pinned = pin_base(ctx.params.finetune.base[name].model, earlier, f"finetune.base.{name}.model")
        if pinned != earlier:  # reading all weights takes a while; the same ones stay sound
            from prunella.models.pipeline import check_teacher

            check_teacher(pinned)
        atomic_write_text(out, json.dumps(pinned, indent=1) + "\n")
        ctx.run.artifact(out)
        which = f"a student of family {pinned['family']}" if pinned["student"] else f"family {pinned['family']}"
        where = pinned.get("path") or f"{pinned['id']} at {pinned['commit']}"
        ctx.done(f"{where}: {which}, {pinned['prediction_type']}, {len(pinned['files'])} files")


if __name__ == "__main__":
    main()
