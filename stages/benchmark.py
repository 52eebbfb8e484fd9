"""Put together the report: figures, pictures and curves of the teacher and every student at every stage."""

from prunella.pipeline.stage import run_stage

MODEL_INPUTS = ("teacher", "plans", "images", "speeds", "scores", "costs", "curves", "trainings")  # of models
DATA_INPUTS = ("encoded", "filtered", "examples", "pairs")


def main(argv: list[str] | None = None) -> None:
    with run_stage("benchmark", __doc__, argv, *MODEL_INPUTS, *DATA_INPUTS, "report", section="benchmark") as ctx:
        from prunella.reporting.benchmark import ReportInputs, assemble_report, make_claim_judge, write_report_pages
        from prunella.reporting.provenance import collect_provenance
        from prunella.reporting.summary import extract_headline, format_summary_text

        params, paths = ctx.params, ctx.paths
        inputs, reports_dir = (
            ReportInputs(**{name: getattr(paths, name) for name in (*MODEL_INPUTS, *DATA_INPUTS)}),
            paths.report.parent,
        )
        settings = params.benchmark.model_dump() | {"split_seed": params.seed}
        base_models = sorted(params.finetune.base)
        report = assemble_report(
            inputs, params.students, settings, collect_provenance(ctx.run.get_identifiers()), base_models
        )
        models = [*params.students, *base_models]
        write_report_pages(report, inputs, models, reports_dir, ctx.run.log_image, make_claim_judge(params.filter))
        ctx.run.log_headline(extract_headline(report))
        for name in ("index.html", "summary.md", "filter.html", "images"):
            ctx.run.log_artifact(reports_dir / name)
        ctx.finish(f"{len(report['models'])} models\n{format_summary_text(report)}", report)


if __name__ == "__main__":
    main()
