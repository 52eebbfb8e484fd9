"""Choose the image-caption pairs to learn from; pixels stay where they are."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    names = ("out", "report", "examples", "counts")
    with stage_context("filter", __doc__, argv, *names, section="filter", own=True) as ctx:
        from prunella.data.examples import write_examples
        from prunella.data.filter import counted, filtered
        from prunella.data.image_checks import aesthetic
        from prunella.data.sources import open_source

        params, paths, runtime = ctx.params, ctx.paths, ctx.params.runtime
        cluster = runtime if runtime.engine == "ray" else None
        score = None if cluster else aesthetic(params.filter, lambda: ctx.device)
        asked = params.filter, params.seed, paths.out, runtime.workers, score
        report, examples, source = filtered(*asked, resumed=True, cluster=cluster)
        write_examples(paths.examples, examples, open_source(source).image)
        paths.counts.parent.mkdir(parents=True, exist_ok=True)
        paths.counts.write_text(counted(report), encoding="utf-8")
        for path in (paths.examples, paths.counts, paths.out / "pairs.jsonl"):
            ctx.run.artifact(path)
        fell = ", ".join(f"{count} {reason}" for reason, count in report["fell"].items() if count) or "none fell out"
        ctx.done(f"kept {report['kept']} of {report['read']} pairs ({fell})", report)


if __name__ == "__main__":
    main()
