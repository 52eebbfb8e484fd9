"""Say what the teacher is, check it, and pin it by its files' hashes; its weights stay where they are."""

from prunella.context import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("teacher", __doc__, argv, "out", section="teacher") as ctx:
        import json

        from prunella.files import atomic_write_text
        from prunella.models.teacher import earlier_pin, pin

        earlier = earlier_pin(ctx.paths.out)
        pinned = pin(ctx.params.teacher, earlier)
        if pinned != earlier:  # reading all weights takes a while; the same ones stay sound
            from prunella.models.pipeline import check_teacher

            check_teacher(pinned)
        atomic_write_text(ctx.paths.out, json.dumps(pinned, indent=1) + "\n")
        ctx.run.artifact(ctx.paths.out)
        name = pinned.get("path") or f"{pinned['id']} at {pinned['commit']}"
        ctx.done(f"{name}: family {pinned['family']}, {pinned['prediction_type']}, {len(pinned['files'])} files")


if __name__ == "__main__":
    main()
