"""What someone wrote into a file, checked against a model: faults in words, and the shipped defaults."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from prunella.errors import UserError
from prunella.storage.files import read_yaml

Model = TypeVar("Model", bound=BaseModel)
QUOTED = reprlib.Repr()  # how a wrong value is quoted: aliases can make a short file's value endless
QUOTED.maxlevel, QUOTED.maxstring, QUOTED.maxother = 3, 200, 200
# Keys of earlier versions, and where they went.
MOVED = {
    f"{section}.{key}": f"watch.{key}"
    for section in ("distill", "finetune")
    for key in ("checkpoint_every", "picture_every")
}


@cache
def shipped_defaults() -> dict[str, Any]:
    """The parameters as committed, from the copy that the package ships."""
    return read_yaml(Path(__file__).parents[1] / "defaults.yaml")


def completed(section: str, content: dict[str, Any]) -> dict[str, Any]:
    """A section's content with the shipped defaults of the keys that it lacks."""
    return with_defaults(content, shipped_defaults()[section], {})


def with_defaults(content: dict, defaults: dict, filled: dict[str, Any], prefix: str = "") -> dict:
    """`content` with the keys that it lacks from `defaults`, section by section; they are noted in `filled`."""
    whole = dict(content)
    for name, value in defaults.items():
        if name not in content:
            whole[name] = filled[f"{prefix}{name}"] = value
        elif isinstance(value, dict) and isinstance(content[name], dict):
            whole[name] = with_defaults(content[name], value, filled, f"{prefix}{name}.")
    return whole


def check(model: type[Model], content: Any, where: str) -> Model:
    """`content` as `model`. Raises UserError naming each key, what is wrong with it and what is allowed."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {_said(model, fault)}" for fault in error.errors())) from None


def typed(adapter: TypeAdapter, content: Any, where: str) -> Any:
    """`content`, which someone else wrote, as the adapter's type. Raises UserError of one line: the first fault."""
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"]) or "(top level)"
        message = f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        given = "" if fault["type"] == "missing" else f", got {_short(fault['input'])}"
        raise UserError(f"{where}: {message[:200]}{given}") from None


def _short(value: Any) -> str:
    """A value in words, without the content of what may be large."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else repr(value)[:80]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """One line about a name that is not known: the nearest one, else all."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"no {kind} is called {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    )


# What pydantic says of which of a key's several types it tried.
CHOICE = re.compile(r"(number|points|named|constrained-.*|literal\[.*)$")


def _said(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    *path, last = fault["loc"] or ("(top level)",)
    name = ".".join(str(part) for part in fault["loc"] if not CHOICE.match(str(part))) or "(top level)"
    if name in MOVED:
        return f"{name}: is {MOVED[name]} now"
    if fault["type"] == "extra_forbidden":
        known = sorted(_keys(model, path))
        section = f"section {'.'.join(map(str, path))!r}" if path else "the file"
        return f"{name}: {unknown(f'key of {section}', str(last), known)}"
    if fault["type"] == "missing":
        return f"{name}: missing"
    if fault["type"] == "value_error":
        return f"{name}: {fault['ctx']['error']}"
    return f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {QUOTED.repr(fault['input'])}"


def _keys(model: type[BaseModel], path: list) -> set[str]:
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
