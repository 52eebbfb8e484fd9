"""Put together the report: figures, pictures and curves of the teacher and every student at every stage."""

from prunella.pipeline.stage import run_stage

MADE = ("teacher", "plans", "drawn", "speeds", "scores", "costs", "curves", "trainings")  # of models
DATA = ("encoded", "filtered", "examples", "pairs")


def main(argv: list[str] | None = None) -> None:
    with run_stage("benchmark", __doc__, argv, *MADE, *DATA, "report", section="benchmark") as ctx:
        from prunella.reporting.benchmark import ReportInputs, assemble_report, make_claim_judge, write_report_pages
        from prunella.reporting.provenance import collect_provenance
        from prunella.reporting.summary import extract_headline, format_summary_text

        params, paths = ctx.params, ctx.paths
        sources, reports = ReportInputs(**{name: getattr(paths, name) for name in (*MADE, *DATA)}), paths.report.parent
        settings = params.benchmark.model_dump() | {"split_seed": params.seed}
        others = sorted(params.finetune.base)
        report = assemble_report(
            sources, params.students, settings, collect_provenance(ctx.run.get_identifiers()), others
        )
        models = [*params.students, *others]
        write_report_pages(report, sources, models, reports, ctx.run.log_image, make_claim_judge(params.filter))
        ctx.run.log_headline(extract_headline(report))
        for name in ("index.html", "summary.md", "filter.html", "images"):
            ctx.run.log_artifact(reports / name)
        ctx.finish(f"{len(report['models'])} models\n{format_summary_text(report)}", report)


if __name__ == "__main__":
    main()
