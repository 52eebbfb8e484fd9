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
        model_pin, location = write_pin(out, lambda previous_pin: pin_base_model(model, previous_pin, key))
        ctx.run.log_artifact(out)
        description = (
            f"a student of family {model_pin['family']}" if model_pin["student"] else f"family {model_pin['family']}"
        )
        ctx.finish(f"{location}: {description}, {model_pin['prediction_type']}, {len(model_pin['files'])} files")


if __name__ == "__main__":
    main()
