"""Encode the chosen pairs with the teacher's VAE and text encoder."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context(
        "encode", __doc__, argv, "teacher", "pairs", "out", "report", section="encode", team=True, own=True
    ) as ctx:
        from prunella.encoding.encode import encoded
        from prunella.models.pipeline import teacher_folder

        paths, teacher, runtime = ctx.paths, teacher_folder(ctx.paths.teacher), ctx.params.runtime
        asked = ctx.params.encode, ctx.params.seed, teacher, paths.pairs, paths.out, ctx.device
        report = encoded(*asked, runtime.workers, cluster=runtime if runtime.engine == "ray" else None)
        if ctx.first:
            counts = f"{report['train']} pairs to train on, {report['heldout']} held out, {report['megabytes']} MB"
            ctx.done(f"{counts}, captions cut: {report['captions_cut']}", report)


if __name__ == "__main__":
    main()
