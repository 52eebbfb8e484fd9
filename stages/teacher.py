"""Say what the teacher is, and pin it by its files' hashes; its weights stay where they are."""

from prunella.context import stage_context

with stage_context("teacher", __doc__, "out", section="teacher") as it:
    import json

    from prunella.models.teacher import pin

    earlier = json.loads(it.paths.out.read_text()) if it.paths.out.is_file() else None
    pinned = pin(it.params.teacher, earlier)
    it.paths.out.parent.mkdir(parents=True, exist_ok=True)
    it.paths.out.write_text(json.dumps(pinned, indent=1) + "\n")
    it.run.artifact(it.paths.out)
    name = pinned.get("path") or f"{pinned['id']} at {pinned['commit']}"
    it.done(f"{name}: family {pinned['family']}, {pinned['prediction_type']}, {len(pinned['files'])} files")
