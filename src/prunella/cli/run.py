"""`prunella check`, `filter-report`, `summary`, `ui`."""

import argparse
import json
import os
import sys
from pathlib import Path

from prunella.cli.arguments import Commands, add_command
from prunella.errors import UserError


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    check_parser = add_command(commands, "check", "check params.yaml without running anything", _run_check)
    check_parser.add_argument("params", nargs="?", type=Path, default=Path("params.yaml"))
    description = "write reports/filter.html: what the filter kept and dropped, with images"
    add_command(commands, "filter-report", description, _run_filter_report)
    add_command(commands, "summary", "print the main figures of the last benchmark", _run_summary)
    ui_parser = add_command(commands, "ui", "start the MLflow UI on this project's runs", _run_ui)
    ui_parser.add_argument("--port", type=int, default=5000)


def _run_check(args: argparse.Namespace) -> None:
    from prunella.params import read_params
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.pipeline.preflight import check_parameters, check_run

    params = read_params(args.params)
    check_parameters(params)
    print(f"{args.params}: all keys known, all values in range", flush=True)
    if params.teacher.source in ("bundled", "folder"):  # the teacher stage resolves the others
        check_run(params, Path(params.teacher.path), params.filter.samples - params.encode.heldout)


def _run_filter_report(args: argparse.Namespace) -> None:
    from prunella.reporting.filter_report import FilterSummary, render_filter_page
    from prunella.storage.files import atomic_write_text, read_json

    report_path = Path("reports/filter.json")
    if not report_path.is_file():
        raise UserError(f"{report_path}: the filter has not run yet; `dvc repro filter` runs it")
    page_path = report_path.with_name("filter.html")
    html = render_filter_page(FilterSummary(read_json(report_path), report_path.with_name("filter")))
    if (
        not page_path.is_file() or page_path.read_text(encoding="utf-8") != html
    ):  # else it is DVC's own, and stays as it is
        atomic_write_text(page_path, html)
    print(f"What the filter kept and dropped: {page_path.resolve()}")


def _run_summary(args: argparse.Namespace) -> None:
    from prunella.reporting.findings import summarize_students
    from prunella.reporting.summary import format_summary_text

    report_path = Path("reports/benchmark.json")
    if not report_path.is_file():
        raise UserError(f"{report_path}: there is no benchmark yet; `make repro` makes one")
    report = json.loads(report_path.read_text(encoding="utf-8"))
    print("\n".join(outcome["sentence"] for outcome in summarize_students(report)), end="\n\n")
    print(format_summary_text(report))
    print(f"\nReport with pictures and curves: {report_path.with_name('index.html').resolve()}")
    print(f"The same in short, as Markdown: {report_path.with_name('summary.md').resolve()}")
    print("MLflow: make ui, then the address that it prints")
    _print_pending_sync()


def _print_pending_sync() -> None:
    from prunella.tracking.journal import count_pending_journals
    from prunella.tracking.run import get_journal_dir

    if num_pending := count_pending_journals(get_journal_dir()):
        stages_text = "1 stage" if num_pending == 1 else f"{num_pending} stages"
        print(
            f"MLflow lacks the end of {stages_text}, killed or without a server; `prunella sync` sends it", flush=True
        )


def _run_ui(args: argparse.Namespace) -> None:
    from prunella.tracking.run import build_runs_url, get_tracking_uri, redact_tracking_uri

    _print_pending_sync()
    if get_tracking_uri().startswith(("http://", "https://")):  # a server has pages of its own
        print(f"MLflow is there already: {build_runs_url(redact_tracking_uri())}")
        return
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # workers for LLM judges, heavy and unused
    print(f"MLflow on {redact_tracking_uri()}: {build_runs_url(f'http://127.0.0.1:{args.port}')}", flush=True)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = get_tracking_uri()  # a password on the command line is everybody's to see
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--port", str(args.port)])
