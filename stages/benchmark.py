"""Put together the report: figures, pictures and curves of the teacher and every student at every stage."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    parts = ("plans", "drawn", "speeds", "scores", "costs", "curves", "filtered", "examples")
    with stage_context("benchmark", __doc__, argv, *parts, "report", section="benchmark") as ctx:
        from prunella.reporting.benchmark import Sources, assemble, write_pages
        from prunella.reporting.summary import headline, text

        params, paths = ctx.params, ctx.paths
        sources, reports = Sources(**{name: getattr(paths, name) for name in parts}), paths.report.parent
        report = assemble(sources, params.students, params.benchmark.model_dump() | {"split_seed": params.seed})
        write_pages(report, sources, params.students, reports, lambda name, grid: ctx.run.picture(0, name, grid))
        ctx.run.headline(headline(report))
        for name in ("index.html", "filter.html", "images"):
            ctx.run.artifact(reports / name)
        ctx.done(f"{len(report['models'])} models\n{text(report)}", report)


if __name__ == "__main__":
    main()
