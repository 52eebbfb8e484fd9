"""`prunella`: look at what a run made, at the students, at the parameters; start the MLflow UI on the right store."""

import argparse
import json
import os
import sys
from pathlib import Path

from prunella.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """The console script; a user's mistake is one line on stderr and status 1."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except UserError as error:
        sys.exit(f"prunella: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunella", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about in (
        ("summary", _summary, "print the table of the last benchmark, and where its report is"),
        ("check", _check, "check params.yaml without running anything"),
        ("students", _students, "list the students that can be made"),
        ("ui", _ui, "start the MLflow UI on the store that the stages log to"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
    commands.choices["ui"].add_argument("--port", type=int, default=5000)
    commands.choices["check"].add_argument("params", nargs="?", type=Path, default=Path("params.yaml"))
    return parser


def _summary(given: argparse.Namespace) -> None:
    from prunella.benchmark.summary import text

    path = Path("reports/benchmark.json")
    if not path.is_file():
        raise UserError(f"{path}: there is no benchmark yet; `make repro` makes one")
    print(text(json.loads(path.read_text())))
    print(f"\nReport with pictures and curves: {path.with_name('index.html').resolve()}")
    print("MLflow: make ui, then http://127.0.0.1:5000")


def _check(given: argparse.Namespace) -> None:
    from prunella.params import read_params

    read_params(given.params)
    print(f"{given.params}: all keys known, all values in range")


def _students(given: argparse.Namespace) -> None:
    from prunella.students.plan import STUDENTS

    for name, plan in STUDENTS.items():
        print(f"{name:10} {plan.title} ({plan.family}); {plan.source}")


def _ui(given: argparse.Namespace) -> None:
    from prunella.tracking import store

    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # workers for LLM judges, heavy and unused
    print(f"MLflow on {store()}: http://127.0.0.1:{given.port}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store(), "--port", str(given.port)]
    os.execv(sys.executable, command)
