"""The licence that a student inherits from its teacher (licences.yaml)."""

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LICENSES_FILE = Path(__file__).with_name("licences.yaml")
BUNDLED_LICENSE = "apache-2.0"  # the miniature is part of Prunella


class License(NamedTuple):
    """`known`: whether the teacher is known by its name or its card; else this is what its family's originals have."""

    id: str  # as the Hub's cards have it
    title: str
    url: str
    restricts: bool  # uses, in a way that whoever passes the weights on has to pass on too
    known: bool


@cache
def load_licenses() -> dict[str, dict[str, Any]]:
    """Known licences by the Hub's id."""
    return yaml.safe_load(LICENSES_FILE.read_text(encoding="utf-8"))


def inherit_license(teacher_pin: dict[str, Any], license_id: str | None = None) -> License:
    """The licence of the weights of a pinned teacher (models/teacher.json), and so of its students.

    `license_id` is what the user says; else the teacher's card, else its name, else what its family's originals have.
    """
    if license_id:
        return _make_license(license_id, True)
    if teacher_pin["source"] == "bundled":
        return _make_license(BUNDLED_LICENSE, True)
    if card_license := _read_card_license(Path(teacher_pin.get("path", ""))):
        return _make_license(card_license, True)
    for name, entry in load_licenses().items():
        if any(fnmatchcase(teacher_pin.get("id", ""), pattern) for pattern in entry["teachers"]):
            return _make_license(name, True)
    is_sd1 = teacher_pin["family"] == "sd" and not teacher_pin["unet"].get("use_linear_projection")
    return _make_license("creativeml-openrail-m" if is_sd1 else "openrail++", False)


def _make_license(name: str, is_known: bool) -> License:
    entry = load_licenses().get(name, {"title": name, "url": "", "restricts": "rail" in name})
    return License(name, entry["title"], entry["url"], entry["restricts"], is_known)


def _read_card_license(folder: Path) -> str | None:
    """The licence that the README of a model's folder states as its licence."""
    readme = folder / "README.md"
    if not folder.name or not readme.is_file():
        return None
    match = re.match(r"---\n(?:.*\n)*?license: *(\S+)\n", readme.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else None
