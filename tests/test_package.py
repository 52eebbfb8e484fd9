import inspect
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import prunella


def test_what_the_package_offers_is_listed_for_completion():
    assert set(prunella.__all__) <= set(dir(prunella))
    assert {"STUDENTS", "student_config", "feature_pairs", "prune", "distill", "finetune", "sample"} <= set(
        dir(prunella)
    )
    with pytest.raises(AttributeError, match="'carve'"):
        prunella.carve  # noqa: B018


@pytest.mark.parametrize("name", prunella.__all__)
def test_every_public_name_says_what_it_is(name):
    it = getattr(prunella, name)
    if name == "MINIATURE":  # a path, whose words are beside it
        assert (it / "model_index.json").is_file()
        return
    said = inspect.getdoc(it)
    assert said and said != inspect.getdoc(type(it).__mro__[1])
    if inspect.isfunction(it) and it.__module__ in ("prunella.api", "prunella.params.recipes"):
        assert "Raises UserError" in said
        for parameter in inspect.signature(it).parameters:
            assert re.search(rf"`{parameter}\b", said), f"{name}: its docstring says nothing of {parameter}"


def test_importing_it_is_quick():
    code = "import sys; before = set(sys.modules); import prunella; dir(prunella); print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=True
    ).stdout.split()
    assert "prunella" in done and {"torch", "numpy", "pydantic", "yaml", "diffusers"}.isdisjoint(done)
