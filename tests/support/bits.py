"""Tests of fewer bits run where torchao is: it is an extra, and CI installs it."""

from importlib.util import find_spec

import pytest

needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="needs torchao: pip install 'prunella[torchao]'"
)
