"""What a stage tells MLflow, written to a file of its own before it is sent.

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

ENDING = ".jsonl"


class Row(NamedTuple):
    """Something that was told: the how manyth, when (ms since 1970), of which kind, and what."""

    n: int
    at: int
    kind: str
    said: dict[str, Any]


class Journal:
    """A journal that is written to; without a file it writes nothing."""

    def __init__(self, path: Path | None = None, file: IO[str] | None = None, last: int = 0):
        self.path, self.file, self.last = path, file, last

    @property
    def name(self) -> str:
        return self.path.stem if self.path else ""

    @property
    def open(self) -> bool:
        return self.file is not None

    @property
    def kept(self) -> Path:
        """The folder of files that are still to be sent."""
        return self.path.with_suffix("") if self.path else Path("nowhere")

    def add(self, kind: str, said: dict[str, Any], keep: Callable[[Path], Any] | None = None) -> Row:
        """Write a row down; `keep` puts what is to be sent with it into the folder that it is given."""
        self.last += 1
        row = Row(self.last, now(), kind, said)
        if self.file is not None and keep is not None:
            self._try(lambda: keep(self._folder(row.n)))
        self._write(row._asdict())
        return row

    def sent(self, n: int, **known: str) -> None:
        """Note that the store has everything up to row `n`; `known` are numbers that it gave."""
        self._write({"sent": n, **known})
        shutil.rmtree(self.kept / str(n), ignore_errors=True)

    def close(self, *, whole: bool) -> None:
        """Let go of the file; remove it where the store has the `whole` of it."""
        if self.file is None or self.path is None:
            return
        if whole:
            shutil.rmtree(self.kept, ignore_errors=True)
            self.path.unlink(missing_ok=True)
        self.file.close()
        self.file = None

    def _folder(self, n: int) -> Path:
        folder = self.kept / str(n)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, entry: dict[str, Any]) -> None:
        if (file := self.file) is not None:
            self._try(lambda: (file.write(json.dumps(entry) + "\n"), file.flush()))

    def _try(self, what: Callable[[], Any]) -> None:
        try:
            what()
        except OSError as error:
            said = f"{self.path} cannot be written to, so what MLflow misses from here on is lost: {error.strerror}"
            warnings.warn(said, stacklevel=2)
            file, self.file = self.file, None
            with suppress(OSError):  # what is in its buffer fails once more
                file and file.close()


def now() -> int:
    return int(time.time() * 1000)


def begun(folder: Path) -> Journal:
    """A new journal in `folder`, which nobody else may send; one that writes nothing where there can be none."""
    path = folder / f"{now()}-{uuid.uuid4().hex[:8]}{ENDING}"
    half = path.with_suffix(".half")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = half.open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        half.replace(path)
    except OSError as error:
        warnings.warn(f"{folder}: {error.strerror}, so what MLflow misses of this stage is lost", stacklevel=2)
        return Journal()
    return Journal(path, file)


class Found(NamedTuple):
    """A journal that nobody writes to any more: its rows, the last one sent, numbers of the runs where it has them."""

    journal: Journal
    rows: list[Row]
    sent: int
    run: str | None
    parent: str | None

    @property
    def start(self) -> Row | None:
        return self.rows[0] if self.rows and self.rows[0].kind == "start" else None

    @property
    def end(self) -> Row | None:
        return next((row for row in reversed(self.rows) if row.kind == "end"), None)


def journals(folder: Path) -> list[Path]:
    """The journals in `folder`, the oldest first."""
    return sorted(folder.glob(f"*{ENDING}"))


@contextmanager
def found(path: Path) -> Iterator[Found | None]:
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
        yield _read(path, file, text)


def left(folder: Path) -> int:
    """How many journals lie in `folder` that nobody writes to: of stages whose store lacks something."""
    count = 0
    for path in journals(folder):
        with found(path) as it:
            count += it is not None
    return count


def ended(folder: Path, name: str) -> str | None:
    """The status with which the stage of a journal ended, where the store has not been told yet."""
    try:
        text = (folder / f"{name}{ENDING}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    end = _read(folder, None, text).end
    return str(end.said["status"]) if end else None


def _read(path: Path, file: IO[str] | None, text: str) -> Found:
    entries = [entry for entry in map(_entry, text.splitlines()) if entry is not None]
    rows = [Row(**entry) for entry in entries if entry.keys() == set(Row._fields)]
    marks = [entry for entry in entries if "sent" in entry]
    known = {name: value for mark in marks for name, value in mark.items()}
    sent = max((mark["sent"] for mark in marks), default=0)
    last = max((row.n for row in rows), default=0)
    return Found(Journal(path, file, last), rows, sent, known.get("run"), known.get("parent"))


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
