"""Results that are made here and kept on a store: STORE/DIGEST/, where the digest stands for all that decides it.

Therefore what was made of other parameters, models, inputs or code lies beside, and an older commit still finds its
own.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from prunella.storage.files import json_digest
from prunella.storage.remote import PathOrRemote, parse_location


def make_remote_prefix(store: str | None, identity: Any) -> PathOrRemote | None:
    """The place on a store which `identity` decides; None where none is asked for."""
    return None if store is None else parse_location(store) / json_digest(identity)


class BackgroundUploader:
    """Has `upload` bring names to a store, one at a time, while the next is made; does nothing without it."""

    def __init__(self, upload: Callable[[str], None] | None):
        self.upload = upload
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="carrying")
        self.pending: Future[None] | None = None

    def __enter__(self) -> "BackgroundUploader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.pool:  # which waits for the last
            pass
        if self.pending and kind is None:
            self.pending.result()

    def submit(self, name: str) -> None:
        """The whole files. Waits for what was taken before; raises UserError where that could not be carried."""
        if self.upload is None:
            return
        if self.pending:
            self.pending.result()
        self.pending = self.pool.submit(self.upload, name)
