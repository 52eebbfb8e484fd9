"""Choose the image-caption pairs to learn from; pixels stay where they are."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    names = ("out", "report", "examples", "counts")
    with run_stage("filter", __doc__, argv, *names, section="filter", per_dataset=True) as ctx:
        from prunella.data.examples import write_examples
        from prunella.data.filter import filter_dataset, format_counts_csv
        from prunella.data.image_checks import load_aesthetic_scorer
        from prunella.data.sources import open_source

        params, paths, runtime = ctx.params, ctx.paths, ctx.params.runtime
        ray_runtime = runtime if runtime.engine == "ray" else None
        scorer = None if ray_runtime else load_aesthetic_scorer(params.filter, lambda: ctx.device)
        filter_args = params.filter, params.seed, paths.out, runtime.workers, scorer
        report, examples, source = filter_dataset(*filter_args, resume=True, cluster=ray_runtime)
        write_examples(paths.examples, examples, open_source(source).load_image)
        paths.counts.parent.mkdir(parents=True, exist_ok=True)
        paths.counts.write_text(format_counts_csv(report), encoding="utf-8")
        for path in (paths.examples, paths.counts, paths.out / "pairs.jsonl"):
            ctx.run.log_artifact(path)
        rejections_text = (
            ", ".join(f"{count} {reason}" for reason, count in report["fell"].items() if count) or "none fell out"
        )
        ctx.finish(f"kept {report['kept']} of {report['read']} pairs ({rejections_text})", report)


if __name__ == "__main__":
    main()
