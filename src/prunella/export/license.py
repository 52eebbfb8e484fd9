"""The licence that a student inherits from its teacher (licences.yaml)."""

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FILE = Path(__file__).with_name("licences.yaml")
BUNDLED = "apache-2.0"  # the miniature is part of Prunella


class Licence(NamedTuple):
    """`known`: whether the teacher is known by its name or its card; else this is what its family's originals have."""

    id: str  # as the Hub's cards have it
    title: str
    url: str
    restricts: bool  # uses, in a way that whoever passes the weights on has to pass on too
    known: bool


@cache
def licences() -> dict[str, dict[str, Any]]:
    """Known licences by the Hub's id."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def inherited(teacher: dict[str, Any], stated: str | None = None) -> Licence:
    """The licence of the weights of a pinned teacher (models/teacher.json), and so of its students.

    `stated` is what the user says; else the teacher's card, else its name, else what its family's originals have.
    """
    if stated:
        return _licence(stated, True)
    if teacher["source"] == "bundled":
        return _licence(BUNDLED, True)
    if card := _of_card(Path(teacher.get("path", ""))):
        return _licence(card, True)
    for name, known in licences().items():
        if any(fnmatchcase(teacher.get("id", ""), pattern) for pattern in known["teachers"]):
            return _licence(name, True)
    first = teacher["family"] == "sd" and not teacher["unet"].get("use_linear_projection")
    return _licence("creativeml-openrail-m" if first else "openrail++", False)


def _licence(name: str, known: bool) -> Licence:
    there = licences().get(name, {"title": name, "url": "", "restricts": "rail" in name})
    return Licence(name, there["title"], there["url"], there["restricts"], known)


def _of_card(folder: Path) -> str | None:
    """What the README of a model's folder states as its licence."""
    readme = folder / "README.md"
    if not folder.name or not readme.is_file():
        return None
    found = re.match(r"---\n(?:.*\n)*?license: *(\S+)\n", readme.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None
