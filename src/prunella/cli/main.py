"""`prunella`: look at what a run made, at the students, at the parameters; start the MLflow UI on the right store."""

import argparse
import os
import sys

from prunella import __version__
from prunella.cli import (
    accept,
    bench,
    carry,
    data,
    encode,
    export,
    filter,
    init,
    promote,
    recipe,
    run,
    sample,
    students,
    sweep,
    sync,
)
from prunella.errors import UserError
from prunella.pipeline.gc_tuning import relax_gc
from prunella.tracking.redact import redact

# In the order of `prunella --help`; each registers its own commands.
GROUPS = (init, run, sample, export, promote, sync, accept, sweep, recipe, students, carry, bench, data, filter, encode)


def main(argv: list[str] | None = None) -> None:
    """The console script; a user's mistake is one line on stderr and status 1."""
    relax_gc()
    try:
        args = _build_parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(redact(f"prunella: {error}"))
    except BrokenPipeError:  # of `prunella … | head`; what is still in the buffer must not be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"prunella: {error.filename}: {error.strerror}")


class CompletionAction(argparse.Action):
    """Prints what a shell completes `prunella` by, and ends."""

    DESCRIPTION = "print the completion script for bash, zsh or tcsh (default: of $SHELL), to be sourced by the shell"

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None
    ) -> None:
        import shtab

        shell = str(values) or os.environ.get("SHELL", "bash").rpartition("/")[2]
        if shell not in shtab.SUPPORTED_SHELLS:
            parser.error(f"no completion for {shell!r}; there is for {', '.join(shtab.SUPPORTED_SHELLS)}")
        print(shtab.complete(parser, shell))
        parser.exit()


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunella", description=__doc__)
    parser.add_argument("--version", action="version", version=f"prunella {__version__}")
    parser.add_argument(
        "--print-completion",
        action=CompletionAction,
        nargs="?",
        const="",
        metavar="SHELL",
        help=CompletionAction.DESCRIPTION,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    return parser
