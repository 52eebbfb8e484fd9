import base64
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunella.data.images import RejectedImage
from prunella.data.sources import footers
from prunella.data.sources.footers import footer_is_safe
from prunella.data.sources.parquet import _open_parquet

# A table of one row whose schema lost a byte, so that its statistics are of another type: pyarrow 25 aborts.
FATAL = base64.b64decode(
    "UEFSMRUAFRYVFiwVAhUAFQYVBhw2ACgBeBgBeBERAAAAAgAAAAIBAQAAAHgVABUWFRYsFQIVABUGFQYcNgAoAWEYAWEREQAAAAIAAAACAQEAAABhFQQZ"
    "PDUAGAZzY2hlbWEVBAAVACUCGAVpbWFnZQAVDCUCGAR0ZXh0JQBMHAAAABYCGRwZLCYAHBUMGSUGABkYBWltYWdlFQAWAhZQFlAmCDw2ACgBeBgBeBER"
    "ABkcFQAVABUCADwWAhkGGSYAAgAAACYAHBUMGSUGABkYBHRleHQVABYCFlAWUCZYPDYAKAFhGAFhEREAGRwVABUAFQIAPBYCGQYZJgACAAAAFqABFgIm"
    "CBagAQAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjUuMC4xGSwcAAAcAAAA4QAAAFBBUjE="
)


@pytest.fixture(autouse=True)
def as_it_was():
    """No process that another test has changed is left."""
    yield
    footers._stop_checker(footers._checker_process())
    footers._checker_process.cache_clear()


@pytest.fixture
def files(tmp_path):
    """Parquet files of those names: a sound one, one that ends its reader, and no Parquet at all."""
    pq.write_table(pa.table({"image": [b"x"], "text": ["a"]}), tmp_path / "sound")
    (tmp_path / "fatal").write_bytes(FATAL)
    (tmp_path / "other").write_text("no table")
    return tmp_path


def test_a_footer_that_ends_its_reader_is_a_damaged_file(files):
    with pytest.raises(RejectedImage) as caught:
        _open_parquet(files / "fatal")
    assert caught.value.cause == "damaged Parquet file"
    with _open_parquet(files / "sound") as sound:
        assert sound.metadata.num_rows == 1


def ending(monkeypatch, how: str) -> None:
    """Have the process that looks do `how` where a file's name begins with "f"."""
    named = "bytes.fromhex(line).rpartition(b'/')[2].startswith(b'f')"
    spoilt = footers.CHECK_SCRIPT.replace("    try:", f"    if {named}: {how}\n    try:", 1)
    monkeypatch.setattr(footers, "CHECK_SCRIPT", f"import os\n{spoilt}")
    footers._stop_checker(footers._checker_process())
    footers._checker_process.cache_clear()


def test_files_after_one_that_ended_its_reader_are_looked_at(files, monkeypatch):
    ending(monkeypatch, "os.abort()")
    assert [footer_is_safe(files / name) for name in ("sound", "fatal", "other", "fatal", "sound")] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("how", "error"), [(f"os.kill(os.getpid(), {signal.SIGKILL:d})", MemoryError), ("sys.exit(3)", RuntimeError)]
)
def test_a_killed_reader_and_one_that_cannot_run_are_no_damage(files, monkeypatch, how, error):
    ending(monkeypatch, how)
    with pytest.raises(error, match="fatal"):
        footer_is_safe(files / "fatal")
    assert footer_is_safe(files / "sound")
