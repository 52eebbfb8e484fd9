"""Choose the image-caption pairs to learn from; pixels stay where they are."""

from prunella.doors import door

with door("filter", __doc__, "out", "report", section="filter") as it:
    from prunella.filtering import filtered

    report = filtered(it.params.filter, it.params.seed, it.paths.out)
    it.run.artifact(it.paths.out / "pairs.jsonl")
    fell = ", ".join(f"{count} {reason}" for reason, count in report["fell"].items() if count) or "none fell out"
    it.done(f"kept {report['kept']} of {report['read']} pairs ({fell})", report)
