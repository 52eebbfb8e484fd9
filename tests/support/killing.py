"""Processes that end in the middle, as by Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def killed(place: Any, name: str, call: int) -> Iterator[None]:
    """What happens inside is to end when `name` of `place` is called for the `call`th time."""
    real, calls = getattr(place, name), []

    def kill(*given, **named):
        calls.append(given)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, name, kill)
        yield
