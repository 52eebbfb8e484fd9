"""Say what the teacher is, check it, and pin it by its files' hashes; its weights stay where they are."""

from prunella.context import stage_context

with stage_context("teacher", __doc__, None, "out", section="teacher") as it:
    import json

    from prunella.models.teacher import pin

    earlier = json.loads(it.paths.out.read_text(encoding="utf-8")) if it.paths.out.is_file() else {}
    pinned = pin(it.params.teacher, earlier)
    if pinned != earlier:  # reading all weights takes a while; the same ones stay sound
        from prunella.models.pipeline import check_teacher

        check_teacher(pinned)
    it.paths.out.parent.mkdir(parents=True, exist_ok=True)
    it.paths.out.write_text(json.dumps(pinned, indent=1) + "\n", encoding="utf-8")
    it.run.artifact(it.paths.out)
    name = pinned.get("path") or f"{pinned['id']} at {pinned['commit']}"
    it.done(f"{name}: family {pinned['family']}, {pinned['prediction_type']}, {len(pinned['files'])} files")
