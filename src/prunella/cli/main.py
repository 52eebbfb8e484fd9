"""`prunella`: look at what a run made, at the students, at the parameters; start the MLflow UI on the right store."""

import argparse
import sys

from prunella import __version__
from prunella.cli import accept, bench, data, recipe, run, students, sweep
from prunella.errors import UserError

# In the order of `prunella --help`; each registers its own commands.
GROUPS = (run, accept, sweep, recipe, students, bench, data)


def main(arguments: list[str] | None = None) -> None:
    """The console script; a user's mistake is one line on stderr and status 1."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except UserError as error:
        sys.exit(f"prunella: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunella", description=__doc__)
    parser.add_argument("--version", action="version", version=f"prunella {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    return parser
