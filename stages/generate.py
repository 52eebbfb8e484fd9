"""Draw pictures of prompts with the teacher or another model, to learn from."""

from pathlib import Path

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("generate", __doc__, argv, "out", "report", distributed=True) as ctx:
        from prunella.errors import UserError
        from prunella.sampling.training_images import generate_images

        paths, name = ctx.paths, ctx.paths.out.name
        if name not in ctx.params.generate:
            raise UserError(f"generate: the section has no entry {name!r}")
        entry = ctx.params.generate[name]  # its paths come from here: in a command they could be one of their own
        runtime = ctx.params.runtime
        ray_runtime = runtime if runtime.engine == "ray" else None
        report = generate_images(
            entry, name, Path(entry.prompts), Path(entry.model), paths.out, ctx.device, ray_runtime
        )
        if ctx.is_main_process:
            ctx.finish(f"{name}: {report['pictures']} pictures of {report['prompts']} prompts", report)


if __name__ == "__main__":
    main()
