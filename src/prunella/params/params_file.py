"""Read `params.yaml`; what entries of sets, bases, teachers and phases lack is filled in."""

import sys
from pathlib import Path
from typing import Any

from prunella.errors import UserError
from prunella.params.distill import LossWeights
from prunella.params.schema import Params
from prunella.params.validation import fill_defaults, load_shipped_defaults, validate_config
from prunella.storage.files import read_yaml


def read_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a parameter file; a key that it lacks takes the shipped default, which is printed to stderr.

    Therefore a file written for an older version still works. Raises UserError that lists every mistake, one a line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such parameter file; `prunella init` writes one")
    content = read_yaml(path)
    filled: dict[str, Any] = {}
    if isinstance(content, dict):
        content = fill_entries(fill_defaults(content, load_shipped_defaults(), filled))
    params = validate_config(Params, content, str(path))
    if filled:
        defaults_used = ", ".join(f"{name}: {value}" for name, value in filled.items())
        print(f"{path}: lacks keys of this version; taken from the shipped defaults: {defaults_used}", file=sys.stderr)
    return params


def fill_entries(content: dict) -> dict:
    """`content` with what the entries of its sets, bases, teachers and phases lack."""
    return fill_phase_entries(fill_finetune_entries(fill_generate_entries(content)))


def fill_generate_entries(content: dict) -> dict:
    """`content` with entries of `generate` that say where their tars lie, which older ones did not."""
    entries = content.get("generate")
    if not isinstance(entries, dict):
        return content
    return content | {"generate": _fill_entry_sections(entries, {name: {"store": None} for name in entries})}


def fill_finetune_entries(content: dict) -> dict:
    """`content` with whole entries of `finetune.data` and `finetune.base`.

    Missing keys of an entry's `filter` or `model` are as shipped, since criteria for millions are none for twenty; what
    its `encode` lacks is as in the section `encode`.
    """
    tuning, shipped = content.get("finetune"), load_shipped_defaults()
    if not isinstance(tuning, dict):
        return content
    defaults = {"filter": shipped["filter"], "model": shipped["teacher"], "encode": content.get("encode")}
    filled = {key: _fill_named_entries(tuning.get(key), defaults) for key in ("data", "base")}
    return content | {"finetune": tuning | filled}


def fill_phase_entries(content: dict) -> dict:
    """`content` with whole entries of `teachers` and `distill.phases`.

    Missing keys of a teacher's entry are as shipped. Missing keys of a phase are as in the section `distill`, its
    teacher the first and its plan the student's own.
    """
    section, teachers = content.get("distill"), content.get("teachers")
    if isinstance(teachers, dict):
        content = content | {
            "teachers": _fill_entry_sections(teachers, dict.fromkeys(teachers, load_shipped_defaults()["teacher"]))
        }
    if not isinstance(section, dict) or not isinstance(section.get("phases"), list):
        return content
    shared = {name: section[name] for name in ("learning_rate", *LossWeights.model_fields) if name in section}
    defaults = {"teacher": None, "plan": None} | shared
    phases = [defaults | phase if isinstance(phase, dict) else phase for phase in section["phases"]]
    return content | {"distill": section | {"phases": phases}}


def _fill_named_entries(entries: Any, defaults: dict[str, Any]) -> Any:
    """Entries by name whose parts get what they lack; what is no entry or part stays as it is, for `check` to name."""
    if not isinstance(entries, dict):
        return entries
    return {
        name: _fill_entry_sections(entry, defaults) if isinstance(entry, dict) else entry
        for name, entry in entries.items()
    }


def _fill_entry_sections(entry: dict, defaults: dict[str, Any]) -> dict:
    pairs_by_key = {key: (part, defaults.get(key)) for key, part in entry.items()}
    return {
        key: fill_defaults(part, default, {}) if isinstance(part, dict) and isinstance(default, dict) else part
        for key, (part, default) in pairs_by_key.items()
    }
