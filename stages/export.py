"""Write a student in the forms that other programs read."""

from prunella.pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> None:
    with run_stage("export", __doc__, argv, "model", "out") as ctx:
        from prunella.export.formats import export_file_name, write_export
        from prunella.storage.files import atomic_folder

        export_params, paths, student = ctx.params.export, ctx.paths, ctx.paths.out.name
        with atomic_folder(paths.out) as tmp_dir:
            names = {format_name: export_file_name(format_name, student) for format_name in export_params.to}
            report = {
                name: write_export(format_name, paths.model, tmp_dir / name, export_params.dtype).details
                for format_name, name in names.items()
            }
        ctx.finish(f"{student}: {', '.join(report)}", report)


if __name__ == "__main__":
    main()
