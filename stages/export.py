"""Write a student in the forms that other programs read."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("export", __doc__, argv, "model", "out") as ctx:
        from prunella.export.formats import export_file_name, write_export
        from prunella.storage.files import atomic_folder

        asked, paths, student = ctx.params.export, ctx.paths, ctx.paths.out.name
        with atomic_folder(paths.out) as half:
            names = {form: export_file_name(form, student) for form in asked.to}
            report = {
                name: write_export(form, paths.model, half / name, asked.dtype).details for form, name in names.items()
            }
        ctx.finish(f"{student}: {', '.join(report)}", report)


if __name__ == "__main__":
    main()
