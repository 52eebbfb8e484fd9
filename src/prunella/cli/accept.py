"""`prunella accept`: let results stand after a change of code."""

import argparse
import sys
from pathlib import Path

from prunella.cli.arguments import Commands, add_command

DESCRIPTION = "keep results of stages after a code change that toy models show to change no result"


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(commands, "accept", DESCRIPTION, _run_accept)
    parser.add_argument("stage", nargs="+", help="in dvc.yaml: distill is all students, distill@sd-tiny one")


def _run_accept(args: argparse.Namespace) -> None:
    from prunella.errors import UserError
    from prunella.params import read_params
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    if not Path("dvc.yaml").is_file():
        raise UserError("no dvc.yaml here; run `prunella accept` in the repository's root")
    read_params()
    from transformers.utils.logging import disable_progress_bar

    from prunella.verify.verify import accept

    disable_progress_bar()  # of the toys' weights
    if not accept(args.stage, Path.cwd()):
        sys.exit(1)
