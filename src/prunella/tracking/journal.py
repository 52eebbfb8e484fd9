"""Messages of a stage to MLflow, written to a file of its own before it is sent.

`work/tracking/NAME.jsonl`: a line is {"n": 7, "at": …, "kind": "metrics", "said": …}; {"sent": 7} says that the store
has everything up to line 7. Pictures and files are in `work/tracking/NAME/7/` until they are sent. A stage that ends
with all of it sent removes both, so what lies there is what the store lacks, or a stage is writing it: then the file is
locked. Nothing here stops a stage; a line that was cut off by kill -9 or a full disk is passed over.
"""

import fcntl
import json
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

SUFFIX = ".jsonl"


ROW_KEYS = ("n", "at", "kind", "said")  # of a row in the file


class Row(NamedTuple):
    """Something that was told: the how manyth, when (ms since 1970), of which kind, and what."""

    n: int
    at: int
    kind: str
    payload: dict[str, Any]  # "said" in the file


class Journal:
    """A journal that is written to; without a file it writes nothing."""

    def __init__(self, path: Path | None = None, file: IO[str] | None = None, last_n: int = 0):
        self.path, self.file, self.last_n = path, file, last_n

    @property
    def name(self) -> str:
        return self.path.stem if self.path else ""

    @property
    def is_open(self) -> bool:
        return self.file is not None

    @property
    def attachments_dir(self) -> Path:
        """The folder of files that are still to be sent."""
        return self.path.with_suffix("") if self.path else Path("nowhere")

    def add(self, kind: str, payload: dict[str, Any], save_files: Callable[[Path], Any] | None = None) -> Row:
        """Write a row down; `save_files` puts what is to be sent with it into the folder that it is given."""
        self.last_n += 1
        row = Row(self.last_n, now_ms(), kind, payload)
        if self.file is not None and save_files is not None:
            self._try_write(lambda: save_files(self._make_attachment_dir(row.n)))
        self._write({"n": row.n, "at": row.at, "kind": row.kind, "said": row.payload})
        return row

    def mark_sent(self, n: int, **run_ids: str) -> None:
        """Note that the store has everything up to row `n`; `run_ids` are numbers that it gave."""
        self._write({"sent": n, **run_ids})
        shutil.rmtree(self.attachments_dir / str(n), ignore_errors=True)

    def close(self, *, complete: bool) -> None:
        """Let go of the file; remove it where the store has the `complete` of it."""
        if self.file is None or self.path is None:
            return
        if complete:
            shutil.rmtree(self.attachments_dir, ignore_errors=True)
            self.path.unlink(missing_ok=True)
        self.file.close()
        self.file = None

    def _make_attachment_dir(self, n: int) -> Path:
        folder = self.attachments_dir / str(n)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, entry: dict[str, Any]) -> None:
        if (file := self.file) is not None:
            self._try_write(lambda: (file.write(json.dumps(entry) + "\n"), file.flush()))

    def _try_write(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            message = f"{self.path} cannot be written to, so what MLflow misses from here on is lost: {error.strerror}"
            warnings.warn(message, stacklevel=2)
            file, self.file = self.file, None
            with suppress(OSError):  # what is in its buffer fails once more
                file and file.close()


def now_ms() -> int:
    return int(time.time() * 1000)


def create_journal(folder: Path) -> Journal:
    """A new journal in `folder`, which nobody else may send; one that writes nothing where there can be none."""
    path = folder / f"{now_ms()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    tmp_path = path.with_suffix(".half")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tmp_path.open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        tmp_path.replace(path)
    except OSError as error:
        warnings.warn(f"{folder}: {error.strerror}, so what MLflow misses of this stage is lost", stacklevel=2)
        return Journal()
    return Journal(path, file)


class PendingJournal(NamedTuple):
    """A journal that nobody writes to any more: its rows, the last one sent, numbers of the runs where it has them."""

    journal: Journal
    rows: list[Row]
    last_sent: int
    run: str | None
    parent: str | None

    @property
    def start(self) -> Row | None:
        return self.rows[0] if self.rows and self.rows[0].kind == "start" else None

    @property
    def end(self) -> Row | None:
        return next((row for row in reversed(self.rows) if row.kind == "end"), None)


def list_journals(folder: Path) -> list[Path]:
    """The journals in `folder`, the oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


@contextmanager
def open_pending_journal(path: Path) -> Iterator[PendingJournal | None]:
    """A journal to ourselves inside; None where a stage writes to it, or another process sends it."""
    try:
        file = path.open("r+", encoding="utf-8", errors="replace")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not path.exists():  # sent and removed in the meantime
            yield None
            return
        text = file.read()
        if text and not text.endswith("\n"):
            file.write("\n")  # what comes next is no part of a line that was cut off
        yield _parse_journal(path, file, text)


def count_pending_journals(folder: Path) -> int:
    """How many journals lie in `folder` that nobody writes to: of stages whose store lacks something."""
    count = 0
    for path in list_journals(folder):
        with open_pending_journal(path) as pending:
            count += pending is not None
    return count


def read_final_status(folder: Path, name: str) -> str | None:
    """The status with which the stage of a journal ended, where the store has not been told yet."""
    try:
        text = (folder / f"{name}{SUFFIX}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    end = _parse_journal(folder, None, text).end
    return str(end.payload["status"]) if end else None


def _parse_journal(path: Path, file: IO[str] | None, text: str) -> PendingJournal:
    entries = [entry for entry in map(_parse_line, text.splitlines()) if entry is not None]
    rows = [Row(*(entry[key] for key in ROW_KEYS)) for entry in entries if entry.keys() == set(ROW_KEYS)]
    sent_entries = [entry for entry in entries if "sent" in entry]
    run_ids = {name: value for sent_entry in sent_entries for name, value in sent_entry.items()}
    last_sent = max((sent_entry["sent"] for sent_entry in sent_entries), default=0)
    last_n = max((row.n for row in rows), default=0)
    return PendingJournal(Journal(path, file, last_n), rows, last_sent, run_ids.get("run"), run_ids.get("parent"))


def _parse_line(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
