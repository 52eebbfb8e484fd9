"""`prunella recipe`: the parameters of a published training."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(commands, "recipe", "write the parameter file of a published training", _run_recipe)
    parser.add_argument("name", nargs="?", help="name of the recipe (default: list them)")
    parser.add_argument("--onto", type=Path, help="parameter file to change (default: the shipped defaults)")
    parser.add_argument("--out", type=Path, help="file to write (default: standard output)")


def _run_recipe(args: argparse.Namespace) -> None:
    from prunella.errors import UserError
    from prunella.params.recipes import DEFAULTS, list_recipes, load_recipe, merge_recipe

    if args.name is None:
        print("\n".join(f"{name:10} {load_recipe(name).splitlines()[0].lstrip('# ')}" for name in list_recipes()))
        return
    base_file: Path = args.onto or DEFAULTS
    if not base_file.is_file():
        raise UserError(f"--onto: there is no parameter file {base_file}")
    text = merge_recipe(load_recipe(args.name), base_file.read_text(encoding="utf-8"))
    if args.out is None:
        print(text, end="")
        return
    args.out.write_text(text, encoding="utf-8")
    print(f"{args.out}: the recipe {args.name}; `dvc repro` runs it")
