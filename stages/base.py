"""Say what a base of fine-tuning's own is, check it, and pin it as the teacher is; its weights stay where they are."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("base", __doc__, argv, "out") as ctx:
        from prunella.errors import UserError
        from prunella.models.pinning import write_pin
        from prunella.models.teacher import pin_base_model

        out, name = ctx.paths.out, ctx.paths.out.stem
        if name not in ctx.params.finetune.base:
            raise UserError(f"finetune.base: the section has no entry {name!r}")
        model, key = ctx.params.finetune.base[name].model, f"finetune.base.{name}.model"
        pinned, where = write_pin(out, lambda earlier: pin_base_model(model, earlier, key))
        ctx.run.log_artifact(out)
        which = f"a student of family {pinned['family']}" if pinned["student"] else f"family {pinned['family']}"
        ctx.finish(f"{where}: {which}, {pinned['prediction_type']}, {len(pinned['files'])} files")


if __name__ == "__main__":
    main()
