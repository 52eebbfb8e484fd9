"""A user's file, checked against a model: faults in words, and the shipped defaults."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from prunella.errors import UserError
from prunella.params.renames import new_key
from prunella.storage.files import read_yaml

ModelT = TypeVar("ModelT", bound=BaseModel)
VALUE_REPR = reprlib.Repr()  # how a wrong value is quoted: aliases can make a short file's value endless
VALUE_REPR.maxlevel, VALUE_REPR.maxstring, VALUE_REPR.maxother = 3, 200, 200


@cache
def load_shipped_defaults() -> dict[str, Any]:
    """The parameters as committed, from the copy that the package ships."""
    return read_yaml(Path(__file__).parents[1] / "defaults.yaml")


def fill_section(section: str, content: dict[str, Any]) -> dict[str, Any]:
    """A section's content with the shipped defaults of the keys that it lacks."""
    return fill_defaults(content, load_shipped_defaults()[section], {})


def fill_defaults(content: dict, defaults: dict, filled: dict[str, Any], prefix: str = "") -> dict:
    """`content` with the keys that it lacks from `defaults`, section by section; they are noted in `filled`."""
    result = dict(content)
    for name, value in defaults.items():
        if name not in content:
            result[name] = filled[f"{prefix}{name}"] = value
        elif isinstance(value, dict) and isinstance(content[name], dict):
            result[name] = fill_defaults(content[name], value, filled, f"{prefix}{name}.")
    return result


def validate_config(model: type[ModelT], content: Any, where: str) -> ModelT:
    """`content` as `model`. Raises UserError naming each key, what is wrong with it and what is allowed."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(
            "\n".join(f"{where}: {_format_validation_fault(model, fault)}" for fault in error.errors())
        ) from None


def validate_as(adapter: TypeAdapter, content: Any, where: str) -> Any:
    """`content`, which someone else wrote, as the adapter's type. Raises UserError of one line: the first fault."""
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        location = ".".join(str(part) for part in fault["loc"]) or "(top level)"
        message = f"{location}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        got = "" if fault["type"] == "missing" else f", got {_preview_value(fault['input'])}"
        raise UserError(f"{where}: {message[:200]}{got}") from None


def _preview_value(value: Any) -> str:
    """A value in words, without the content of what may be large."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else repr(value)[:80]


def did_you_mean(kind: str, name: str, candidates: list[str]) -> str:
    """One line about a name that is not known: the nearest one, else all."""
    closest = difflib.get_close_matches(name, candidates, n=1, cutoff=0.4)
    return f"no {kind} is called {name!r}; " + (
        f"did you mean {closest[0]!r}?" if closest else f"there are: {', '.join(candidates)}"
    )


# What pydantic says of which of a key's several types it tried.
UNION_TAG = re.compile(r"(number|points|named|constrained-.*|literal\[.*)$")


def _format_validation_fault(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    *path, last = fault["loc"] or ("(top level)",)
    name = ".".join(str(part) for part in fault["loc"] if not UNION_TAG.match(str(part))) or "(top level)"
    if new := new_key(name):
        return f"{name}: is {new} now"
    if fault["type"] == "extra_forbidden":
        allowed = sorted(_list_allowed_keys(model, path))
        section = f"section {'.'.join(map(str, path))!r}" if path else "the file"
        return f"{name}: {did_you_mean(f'key of {section}', str(last), allowed)}"
    if fault["type"] == "missing":
        return f"{name}: missing"
    if fault["type"] == "value_error":
        return f"{name}: {fault['ctx']['error']}"
    return f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {VALUE_REPR.repr(fault['input'])}"


def _list_allowed_keys(model: type[BaseModel], path: list) -> set[str]:
    steps = iter(path)
    for step in steps:
        field = model.model_fields.get(str(step))
        inner: Any = field.annotation if field else None
        if get_origin(inner) in (dict, list):  # of entries by name or number
            inner = get_args(inner)[-1] if next(steps, None) is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return set()
        model = inner
    return set(model.model_fields)
