"""Say what a base of fine-tuning's own is, check it, and pin it as the teacher is; its weights stay where they are."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("base", __doc__, argv, "out") as ctx:
        from prunella.errors import UserError
        from prunella.models.pinning import pin_to
        from prunella.models.teacher import pin_base

        out, name = ctx.paths.out, ctx.paths.out.stem
        if name not in ctx.params.finetune.base:
            raise UserError(f"finetune.base: the section has no entry {name!r}")
        model, key = ctx.params.finetune.base[name].model, f"finetune.base.{name}.model"
        pinned, where = pin_to(out, lambda earlier: pin_base(model, earlier, key))
        ctx.run.artifact(out)
        which = f"a student of family {pinned['family']}" if pinned["student"] else f"family {pinned['family']}"
        ctx.done(f"{where}: {which}, {pinned['prediction_type']}, {len(pinned['files'])} files")


if __name__ == "__main__":
    main()
