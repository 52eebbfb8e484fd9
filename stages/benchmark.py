"""Put together the report: figures, pictures and curves of the teacher and every student at every stage."""

from prunella.pipeline.stage import stage_context

MADE = ("teacher", "plans", "drawn", "speeds", "scores", "costs", "curves", "trainings")  # of models
DATA = ("encoded", "filtered", "examples", "pairs")


def main(argv: list[str] | None = None) -> None:
    with stage_context("benchmark", __doc__, argv, *MADE, *DATA, "report", section="benchmark") as ctx:
        from prunella.reporting.benchmark import Sources, assemble, judge, write_pages
        from prunella.reporting.provenance import origin
        from prunella.reporting.summary import headline, text

        params, paths = ctx.params, ctx.paths
        sources, reports = Sources(**{name: getattr(paths, name) for name in (*MADE, *DATA)}), paths.report.parent
        settings = params.benchmark.model_dump() | {"split_seed": params.seed}
        others = sorted(params.finetune.base)
        report = assemble(sources, params.students, settings, origin(ctx.run.named()), others)
        models = [*params.students, *others]
        write_pages(report, sources, models, reports, ctx.run.picture, judge(params.filter))
        ctx.run.headline(headline(report))
        for name in ("index.html", "summary.md", "filter.html", "images"):
            ctx.run.artifact(reports / name)
        ctx.done(f"{len(report['models'])} models\n{text(report)}", report)


if __name__ == "__main__":
    main()
