"""Encode the chosen pairs with the teacher's VAE and text encoder."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage(
        "encode",
        __doc__,
        argv,
        "teacher",
        "pairs",
        "out",
        "report",
        section="encode",
        distributed=True,
        per_dataset=True,
    ) as ctx:
        from prunella.encoding.encode import encode_dataset
        from prunella.models.pipeline import resolve_teacher_dir

        paths, teacher_dir, runtime = ctx.paths, resolve_teacher_dir(ctx.paths.teacher), ctx.params.runtime
        encode_args = ctx.params.encode, ctx.params.seed, teacher_dir, paths.pairs, paths.out, ctx.device
        report = encode_dataset(*encode_args, runtime.workers, cluster=runtime if runtime.engine == "ray" else None)
        if ctx.is_main_process:
            summary = f"{report['train']} pairs to train on, {report['heldout']} held out, {report['megabytes']} MB"
            ctx.finish(f"{summary}, captions cut: {report['captions_cut']}", report)


if __name__ == "__main__":
    main()
