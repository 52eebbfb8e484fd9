"""What is made here and kept on a store: STORE/DIGEST/, where the digest stands for all that decides it.

So what was made of other parameters, models, inputs or code lies beside, and an older commit still finds its own.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from prunella.storage.files import json_digest
from prunella.storage.remote import Place, place


def home(store: str | None, known: Any) -> Place | None:
    """Where that lies on a store which `known` decides; None where none is asked for."""
    return None if store is None else place(store) / json_digest(known)


class Porter:
    """Has `carry` bring names to a store, one at a time, while the next is made; does nothing without it."""

    def __init__(self, carry: Callable[[str], None] | None):
        self.carry = carry
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="carrying")
        self.last: Future[None] | None = None

    def __enter__(self) -> "Porter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self.pool:  # which waits for the last
            pass
        if self.last and kind is None:
            self.last.result()

    def take(self, name: str) -> None:
        """What is whole. Waits for what was taken before; raises UserError where that could not be carried."""
        if self.carry is None:
            return
        if self.last:
            self.last.result()
        self.last = self.pool.submit(self.carry, name)
