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
from prunella.params import Params, did_you_mean, fill_entries, validate_config

PACKAGE_DIR = Path(__file__).parents[1]
DEFAULTS = PACKAGE_DIR / "defaults.yaml"  # the committed params.yaml
EMPTY_SECTION = "{}"  # of a section of entries by name, in the defaults
COMMENT_COLUMN = 28  # where comments begin, as in the defaults


def list_recipes() -> list[str]:
    """The recipes that are shipped."""
    return sorted(path.stem for path in (PACKAGE_DIR / "recipes").glob("*.yaml"))


def load_recipe(name: str) -> str:
    """The recipe itself, as shipped. Raises UserError that names the known ones when there is none of that name."""
    if name not in list_recipes():
        hint = did_you_mean("recipe", name, list_recipes())
        raise UserError(f"{hint} (known: {', '.join(list_recipes())})")
    return (PACKAGE_DIR / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def parameters(recipe: str | None = None, changes: Mapping[str, Any] | None = None) -> Params:
    """The parameters of a `recipe` (None: the shipped defaults, which are the miniature's), with `changes`.

    Those are values by their dotted keys, as `dvc exp run -S` takes them: {"distill.steps": 300}. Steps, pixels,
    tokens and pairs are counted; learning rates are AdamW's. `prunella recipe` lists the recipes, with sources.

    Raises UserError for an unknown recipe or key, and for a value out of its range, naming all that is wrong.
    """
    text = DEFAULTS.read_text(encoding="utf-8")
    content = yaml.safe_load(merge_recipe(load_recipe(recipe), text) if recipe else text)
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise UserError(f"changes: {key}: {name} is no section but a value")
        section[last] = value
    return validate_config(Params, fill_entries(content), "changes")


def merge_recipe(recipe: str, defaults: str) -> str:
    """The text of a whole parameter file: the defaults with a recipe's values put in.

    Both are YAML texts of block mappings. Comments of both are kept: the recipe's head comes first, and a key's comment
    in the recipe before the one in the defaults. Raises UserError for a key that the defaults do not have.
    """
    default_entries = dict(_iter_yaml_entries(defaults))
    lines, recipe_lines = defaults.splitlines(), recipe.splitlines()
    skipped_section: tuple[str, ...] | None = None  # the section whose entries are being passed over
    for path, entry in _iter_yaml_entries(recipe):
        if skipped_section and path[: len(skipped_section)] == skipped_section:
            continue
        if (
            path in default_entries and default_entries[path].value == EMPTY_SECTION and not entry.value
        ):  # entries by name, as they are written
            skipped_section = path
            lines[default_entries[path].line] = "\n".join(recipe_lines[entry.line : entry.end])
            continue
        if path not in default_entries:
            raise UserError(f"{'.'.join(path)}: a recipe's key, which the defaults do not have")
        default_entry = default_entries[path]
        name = f"{'  ' * (len(path) - 1)}{path[-1]}:"
        text = f"{name} {entry.value}".rstrip()
        comment = " | ".join(part for part in (entry.comment, default_entry.comment) if part)
        lines[default_entry.line] = f"{text.ljust(COMMENT_COLUMN - 1)} # {comment}" if comment else text
    return _leading_comments(recipe) + "\n".join(lines) + "\n"


def drop_recipe_keys(recipe: str, keys: set[tuple[str, ...]]) -> str:
    """A recipe's text without `keys`, given by their paths, and without what it says of them and of their sections."""
    lines, dropped_lines = recipe.splitlines(), set[int]()
    for path, entry in _iter_yaml_entries(recipe):
        if path in keys:
            dropped_lines.update(range(entry.line, entry.end))
        elif any(key[: len(path)] == path for key in keys):
            lines[entry.line] = lines[entry.line].partition("#")[0].rstrip()
    return "\n".join(line for number, line in enumerate(lines) if number not in dropped_lines) + "\n"


class YamlEntry(NamedTuple):
    """A key and its value as they stand in a text."""

    line: int  # from 0
    end: int  # the line after it, blank lines and comments left out
    value: str  # as written; of a section: nothing
    comment: str  # at the end of the line, without its "#"


def _iter_yaml_entries(text: str) -> Iterator[tuple[tuple[str, ...], YamlEntry]]:
    """Every key of a YAML text of block mappings by its path, sections too, each on a line of its own."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, MappingNode):  # else there are comments alone
        yield from _iter_section_entries(root, (), text.splitlines())


def _iter_section_entries(
    section: MappingNode, path: tuple[str, ...], lines: list[str]
) -> Iterator[tuple[tuple[str, ...], YamlEntry]]:
    for key, value in section.value:
        key_path, line = (*path, key.value), key.start_mark.line
        is_mapping = isinstance(value, MappingNode) and not value.flow_style
        end = key.end_mark.column + 1 if is_mapping else value.end_mark.column
        raw_value = "" if is_mapping else lines[line][value.start_mark.column : end]
        yield (
            key_path,
            YamlEntry(line, _find_end_line(value, lines), raw_value, lines[line][end:].strip().lstrip("#").strip()),
        )
        if is_mapping:
            yield from _iter_section_entries(value, key_path, lines)


def _find_end_line(value: Node, lines: list[str]) -> int:
    """The line after a value: the mark of a block is where the next key begins."""
    is_block = isinstance(value, MappingNode) and not value.flow_style
    last = value.end_mark.line if is_block else value.end_mark.line + 1
    while last > 0 and lines[last - 1].strip()[:1] in ("", "#"):
        last -= 1
    return last


def _leading_comments(text: str) -> str:
    """The comment lines that a text begins with, and an empty comment line."""
    comments = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comments.append(line)
    return "\n".join([*comments, "#\n"]) if comments else ""
