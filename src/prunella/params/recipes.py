"""Recipes: what published trainings change of the defaults, and the whole parameter file that follows.

A recipe is an overlay on the defaults, in `recipes/*.yaml`. It holds the keys that differ, and the keys whose values
were published, each with its source as a comment.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node

from prunella.errors import UserError
from prunella.params import Params, check, unknown, with_whole_entries

HOME = Path(__file__).parents[1]
DEFAULTS = HOME / "defaults.yaml"  # the committed params.yaml
EMPTY = "{}"  # of a section of entries by name, in the defaults
COLUMN = 28  # where comments begin, as in the defaults


def recipe_names() -> list[str]:
    """The recipes that are shipped."""
    return sorted(path.stem for path in (HOME / "recipes").glob("*.yaml"))


def recipe_text(name: str) -> str:
    """The recipe itself, as shipped. Raises UserError that names the known ones when there is none of that name."""
    if name not in recipe_names():
        hint = unknown("recipe", name, recipe_names())
        raise UserError(f"{hint} (known: {', '.join(recipe_names())})")
    return (HOME / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def parameters(recipe: str | None = None, changes: Mapping[str, Any] | None = None) -> Params:
    """The parameters of a `recipe` (None: the shipped defaults, which are the miniature's), with `changes`.

    Those are values by their dotted keys, as `dvc exp run -S` takes them: {"distill.steps": 300}. Steps, pixels,
    tokens and pairs are counted; learning rates are AdamW's. `prunella recipe` lists the recipes, with sources.

    Raises UserError for an unknown recipe or key, and for a value out of its range, naming all that is wrong.
    """
    text = DEFAULTS.read_text(encoding="utf-8")
    content = yaml.safe_load(merge_recipe(recipe_text(recipe), text) if recipe else text)
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise UserError(f"changes: {key}: {name} is no section but a value")
        section[last] = value
    return check(Params, with_whole_entries(content), "changes")


def merge_recipe(recipe: str, defaults: str) -> str:
    """The text of a whole parameter file: the defaults with a recipe's values put in.

    Both are YAML texts of block mappings. Comments of both are kept: the recipe's head comes first, and a key's comment
    in the recipe before the one in the defaults. Raises UserError for a key that the defaults do not have.
    """
    places = dict(_leaves(defaults))
    lines, theirs = defaults.splitlines(), recipe.splitlines()
    entries: tuple[str, ...] | None = None  # the section whose entries are being passed over
    for path, own in _leaves(recipe):
        if entries and path[: len(entries)] == entries:
            continue
        if path in places and places[path].value == EMPTY and not own.value:  # entries by name, as they are written
            entries = path
            lines[places[path].line] = "\n".join(theirs[own.line : own.end])
            continue
        if path not in places:
            raise UserError(f"{'.'.join(path)}: a recipe's key, which the defaults do not have")
        place = places[path]
        name = f"{'  ' * (len(path) - 1)}{path[-1]}:"
        text = f"{name} {own.value}".rstrip()
        comment = " | ".join(part for part in (own.comment, place.comment) if part)
        lines[place.line] = f"{text.ljust(COLUMN - 1)} # {comment}" if comment else text
    return _head(recipe) + "\n".join(lines) + "\n"


def recipe_without(recipe: str, keys: set[tuple[str, ...]]) -> str:
    """A recipe's text without `keys`, given by their paths, and without what it says of them and of their sections."""
    lines, dropped = recipe.splitlines(), set[int]()
    for path, own in _leaves(recipe):
        if path in keys:
            dropped.update(range(own.line, own.end))
        elif any(key[: len(path)] == path for key in keys):
            lines[own.line] = lines[own.line].partition("#")[0].rstrip()
    return "\n".join(line for number, line in enumerate(lines) if number not in dropped) + "\n"


class Leaf(NamedTuple):
    """A key and its value as they stand in a text."""

    line: int  # from 0
    end: int  # the line after it, blank lines and comments left out
    value: str  # as written; of a section: nothing
    comment: str  # at the end of the line, without its "#"


def _leaves(text: str) -> Iterator[tuple[tuple[str, ...], Leaf]]:
    """Every key of a YAML text of block mappings by its path, sections too, each on a line of its own."""
    whole = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(whole, MappingNode):  # else there are comments alone
        yield from _below(whole, (), text.splitlines())


def _below(section: MappingNode, path: tuple[str, ...], lines: list[str]) -> Iterator[tuple[tuple[str, ...], Leaf]]:
    for key, value in section.value:
        own, line = (*path, key.value), key.start_mark.line
        deeper = isinstance(value, MappingNode) and not value.flow_style
        end = key.end_mark.column + 1 if deeper else value.end_mark.column
        written = "" if deeper else lines[line][value.start_mark.column : end]
        yield own, Leaf(line, _end(value, lines), written, lines[line][end:].strip().lstrip("#").strip())
        if deeper:
            yield from _below(value, own, lines)


def _end(value: Node, lines: list[str]) -> int:
    """The line after a value: the mark of a block is where the next key begins."""
    block = isinstance(value, MappingNode) and not value.flow_style
    last = value.end_mark.line if block else value.end_mark.line + 1
    while last > 0 and lines[last - 1].strip()[:1] in ("", "#"):
        last -= 1
    return last


def _head(text: str) -> str:
    """The comment lines that a text begins with, and an empty comment line."""
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    return "\n".join([*head, "#\n"]) if head else ""
