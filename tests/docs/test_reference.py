"""The API's reference is built, and holds every public name with its words."""

import html
import inspect
import runpy

from conftest import ROOT

import prunella


def test_every_public_name_is_on_the_page(tmp_path):
    runpy.run_path(str(ROOT / "docs" / "reference.py"))["main"](tmp_path)
    page = html.unescape((tmp_path / "prunella.html").read_text())
    for name in prunella.__all__:
        assert f'id="{name}"' in page, name
    for name in ("distill", "encode", "sample"):
        first = inspect.getdoc(getattr(prunella, name)).split(";")[0].split(",")[0].split("`")[0]
        assert first in page
