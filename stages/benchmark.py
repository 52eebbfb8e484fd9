"""Measure the teacher and every student at every stage, and write the report."""

from prunella.context import stage_context

with stage_context(
    "benchmark", __doc__, "teacher", "models", "latents", "pairs", "curves", "report", section="benchmark"
) as it:
    from prunella.evaluation.benchmark import benchmark
    from prunella.models.pipeline import teacher_folder
    from prunella.reporting.summary import headline, text

    at, reports = it.paths, it.paths.report.parent
    report = benchmark(
        it.params.benchmark,
        it.params.seed,
        teacher_folder(at.teacher),
        at.models,
        it.params.students,
        at.latents,
        at.pairs,
        at.curves,
        reports,
        it.device,
        lambda name, sheet: it.run.picture(0, name, sheet),
    )
    it.run.headline(headline(report))
    it.run.artifact(reports / "index.html")
    it.run.artifact(reports / "images")
    it.done(f"{len(report['models'])} models\n{text(report)}", report)
