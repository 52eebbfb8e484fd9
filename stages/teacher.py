"""Say what the teacher is, and pin it by its files' hashes; its weights stay where they are."""

from prunella.doors import door

with door("teacher", __doc__, "out", section="teacher") as it:
    import json

    from prunella.teachers import pin

    pinned = pin(it.params.teacher)
    it.paths.out.parent.mkdir(parents=True, exist_ok=True)
    it.paths.out.write_text(json.dumps(pinned, indent=1) + "\n")
    it.run.artifact(it.paths.out)
    it.done(f"{pinned['path']}: family {pinned['family']}, {pinned['prediction_type']}, {len(pinned['files'])} files")
