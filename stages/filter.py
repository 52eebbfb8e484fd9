"""Choose the image-caption pairs to learn from; pixels stay where they are."""

from prunella.context import stage_context

with stage_context("filter", __doc__, "out", "report", "page", "counts", section="filter") as it:
    from prunella.data.filter import aesthetic, counted, filtered
    from prunella.data.sources import open_source
    from prunella.reporting.filter_page import filter_page

    at, score = it.paths, aesthetic(it.params.filter, lambda: it.device)
    report, examples, source = filtered(it.params.filter, it.params.seed, at.out, it.params.runtime.workers, score)
    page = filter_page(report, examples, open_source(source).image)
    for path, text in ((at.page, page), (at.counts, counted(report))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        it.run.artifact(path)
    it.run.artifact(at.out / "pairs.jsonl")
    fell = ", ".join(f"{count} {reason}" for reason, count in report["fell"].items() if count) or "none fell out"
    it.done(f"kept {report['kept']} of {report['read']} pairs ({fell})", report)
