"""`prunella recipe`: the parameters of a published training."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    recipe = add_command(commands, "recipe", "write the whole parameter file of a published training", _recipe)
    recipe.add_argument("name", nargs="?", help="of the recipe (default: list them)")
    recipe.add_argument("--onto", type=Path, help="parameter file that it changes (default: the shipped defaults)")
    recipe.add_argument("--out", type=Path, help="file to write (default: standard output)")


def _recipe(given: argparse.Namespace) -> None:
    from prunella.errors import UserError
    from prunella.params.recipes import DEFAULTS, list_recipes, load_recipe, merge_recipe

    if given.name is None:
        print("\n".join(f"{name:10} {load_recipe(name).splitlines()[0].lstrip('# ')}" for name in list_recipes()))
        return
    onto: Path = given.onto or DEFAULTS
    if not onto.is_file():
        raise UserError(f"--onto: there is no parameter file {onto}")
    text = merge_recipe(load_recipe(given.name), onto.read_text(encoding="utf-8"))
    if given.out is None:
        print(text, end="")
        return
    given.out.write_text(text, encoding="utf-8")
    print(f"{given.out}: the recipe {given.name}; `dvc repro` runs it")
