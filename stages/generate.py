"""Draw pictures of prompts with the teacher or another model, to learn from."""

from pathlib import Path

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("generate", __doc__, argv, "out", "report", team=True) as ctx:
        from prunella.errors import UserError
        from prunella.sampling.training_images import generated

        paths, name = ctx.paths, ctx.paths.out.name
        if name not in ctx.params.generate:
            raise UserError(f"generate: the section has no entry {name!r}")
        entry = ctx.params.generate[name]  # its paths come from here: in a command they could be one of their own
        runtime = ctx.params.runtime
        cluster = runtime if runtime.engine == "ray" else None
        report = generated(entry, name, Path(entry.prompts), Path(entry.model), paths.out, ctx.device, cluster)
        if ctx.first:
            ctx.done(f"{name}: {report['pictures']} pictures of {report['prompts']} prompts", report)


if __name__ == "__main__":
    main()
