"""Write a student in the forms that other programs read."""

from prunella.pipeline.stage import stage_context


def main(argv: list[str] | None = None) -> None:
    with stage_context("export", __doc__, argv, "model", "out") as ctx:
        from prunella.export.formats import exported_as, write_form
        from prunella.storage.files import whole_folder

        asked, paths, student = ctx.params.export, ctx.paths, ctx.paths.out.name
        with whole_folder(paths.out) as half:
            names = {form: exported_as(form, student) for form in asked.to}
            report = {
                name: write_form(form, paths.model, half / name, asked.dtype).told for form, name in names.items()
            }
        ctx.done(f"{student}: {', '.join(report)}", report)


if __name__ == "__main__":
    main()
