"""Measure the teacher and every student at every stage, and write the report."""

from prunella.doors import door

with door("benchmark", __doc__, "teacher", "models", "latents", "pairs", "curves", "report", section="benchmark") as it:
    from prunella.benchmark.benchmarking import benchmark
    from prunella.benchmark.summary import headline, text
    from prunella.teachers import pinned_path

    at, reports = it.paths, it.paths.report.parent
    report = benchmark(
        it.params.benchmark,
        it.params.seed,
        pinned_path(at.teacher),
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
