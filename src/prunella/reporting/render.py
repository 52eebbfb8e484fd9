"""Pages from the templates of `templates/`; every value is escaped unless it is marked as markup."""

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def render(template: str, **values: object) -> str:
    """The page `template` with `values`. Raises jinja2.UndefinedError where a value is missing."""
    return _environment().get_template(template).render(**values)


def data_uri(jpeg: Path) -> str:
    """A JPEG file as a `data:` address, so that the page needs no other file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.read_bytes()).decode()}"


def svg_markup(drawing: str) -> Markup:
    """An SVG that Prunella made itself, whose texts are escaped already, as markup."""
    return Markup(drawing)
