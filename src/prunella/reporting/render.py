"""Pages from the templates of `templates/`; every value is escaped unless it is marked as markup."""

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES, ASSETS = (Path(__file__).with_name(name) for name in ("templates", "assets"))


@cache
def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = encode_jpeg_uri
    environment.globals["asset"] = load_asset
    return environment


def render_text(template: str, **values: object) -> str:
    """A text that is no HTML, from the template with `values`: nothing is escaped. Raises as `render_page`."""
    return _make_environment().overlay(autoescape=False).get_template(template).render(**values)


def render_page(template: str, **values: object) -> str:
    """The page `template` with `values`. Raises jinja2.UndefinedError where a value is missing."""
    return _make_environment().get_template(template).render(**values)


def encode_jpeg_uri(jpeg: Path) -> str:
    """A JPEG file as a `data:` address, so that the page needs no other file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.read_bytes()).decode()}"


@cache
def load_asset(name: str) -> Markup:
    """A style sheet or script of ours or of plotly's, as markup for an element of its own."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    if "</script" in text or "</style" in text:
        raise ValueError(f"{name} would end the element that it is put into")
    return Markup(text)


def mark_svg_safe(svg: str) -> Markup:
    """An SVG that Prunella made itself, whose texts are escaped already, as markup."""
    return Markup(svg)
