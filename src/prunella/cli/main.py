"""The command line program `prunella`. `dvc repro` runs the stages; these commands are around it."""

import argparse
import os
import sys

from prunella import __version__
from prunella.cli import (
    accept,
    bench,
    convert_lora,
    data,
    encode,
    export,
    filter,
    gc,
    init,
    promote,
    recipe,
    run,
    sample,
    students,
    sync,
)
from prunella.errors import UserError
from prunella.pipeline.gc_tuning import relax_gc
from prunella.tracking.redact import redact

MODULES = (
    init,
    run,
    recipe,
    students,
    data,
    filter,
    encode,
    sample,
    bench,
    export,
    promote,
    convert_lora,
    accept,
    sync,
    gc,
)
# As `prunella --help` shows them; each command stands in one group.
COMMAND_GROUPS = {
    "set up": ("init", "check", "recipe", "students", "plan", "download"),
    "run parts of stages elsewhere": ("filter", "encode"),
    "look": ("filter-report", "summary", "ui", "sample", "bench"),
    "ship": ("export", "promote", "convert-lora"),
    "maintain": ("accept", "sync", "gc"),
}


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


class GroupedHelpFormatter(argparse.HelpFormatter):
    """Help that lists the commands under the titles of `COMMAND_GROUPS`."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        by_name = {command.dest: command for command in action._get_subactions()}
        parts = []
        for title, names in COMMAND_GROUPS.items():
            parts.append(f"\n  {title}\n")
            self._indent()
            parts += [super(GroupedHelpFormatter, self)._format_action(by_name[name]) for name in names]
            self._dedent()
        return "".join(parts)


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
    parser = argparse.ArgumentParser(prog="prunella", description=__doc__, formatter_class=GroupedHelpFormatter)
    parser.add_argument("--version", action="version", version=f"prunella {__version__}")
    parser.add_argument(
        "--print-completion",
        action=CompletionAction,
        nargs="?",
        const="",
        metavar="SHELL",
        help=CompletionAction.DESCRIPTION,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in MODULES:
        module.register(commands)
    return parser
