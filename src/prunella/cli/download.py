"""Pictures of a table of URLs, fetched by img2dataset (github.com/rom1504/img2dataset) into a webdataset.

It is run as a program, never imported: it needs older packages than Prunella's (pandas 2) and Python 3.12 or older, so
it is at home in an environment of its own. What it writes to a folder:

    00000.tar           000000000.jpg, .txt (the caption), .json (score columns, url, sizes, exif, sha256) a picture
    00000.parquet       every row of the shard, also of those that failed, with `status` and `error_message`
    00000_stats.json    how many there were, came, failed

A picture's key is the shard's number and its row there. Within a tar pictures lie in the order in which they came.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet

from prunella.errors import UserError

SHARD = 10_000  # rows; img2dataset's default, written out because keys and restarts depend on it
# Keys of the .json that img2dataset fills itself.
RESERVED = {"key", "caption", "url", "width", "height", "original_width", "original_height", "status"}
RESERVED |= {"error_message", "exif", "md5", "sha256", "sha512"}
RECORD = "download.txt"  # no .json: img2dataset takes every one in the folder for a shard's
INSTALL = (
    "install it in an environment of its own, with Python 3.12 or older: `pipx install --python 3.11 img2dataset`, or "
    "`python3.11 -m venv FOLDER; FOLDER/bin/pip install img2dataset` and point at FOLDER/bin/img2dataset"
)


def download(
    table: Path,
    out: Path,
    url: str,
    caption: str,
    extra: list[str],
    size: int | None,
    processes: int,
    program: Path | None = None,
) -> None:
    """Fetch the pictures of `table`, a parquet file or a folder of them, into a webdataset at `out`.

    `url`, `caption` and `extra` (scores: aesthetic, punsafe, …) are columns. Pictures whose shorter side exceeds `size`
    pixels are made smaller (None: none is); other JPEGs keep their bytes, other formats become JPEGs of quality 95.
    What is encoded anew loses its EXIF, and with it the turn that it asks for, which is then only in the .json.
    Interrupted, the same call continues; shards that are done stay as they are, with what failed in them. `program` is
    img2dataset's, else the one on PATH or beside this Python.
    Raises UserError where the table or `out` do not fit, where img2dataset is missing or fails, or where nothing came.
    """
    found = _program(program)
    rows = _rows(table, [url, caption, *extra], extra)
    options = {
        "input_format": "parquet",
        "url_col": url,
        "caption_col": caption,
        "save_additional_columns": extra or None,
        "output_format": "webdataset",
        "number_sample_per_shard": SHARD,
        "encode_format": "jpg",
        "encode_quality": 95,
        "skip_reencode": True,
        **({"resize_mode": "no"} if size is None else {"resize_mode": "keep_ratio", "image_size": size}),
        "resize_only_if_bigger": True,
    }
    _record(out, options, rows)
    places = {"url_list": str(table.resolve()), "output_folder": str(out.resolve())}
    options = places | options | {"processes_count": processes, "incremental_mode": "incremental"}
    # img2dataset reads values as Python literals where it can: a bare 1e5 or None would not stay a name.
    command = [found, *(f"--{name}={value!r}" for name, value in options.items() if value is not None)]
    # One of its libraries asks the package index for a newer version each time that it is imported.
    ended = subprocess.run(command, env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}, check=False)
    if ended.returncode:
        raise UserError(
            f"{found} ended with status {ended.returncode}; what it printed above says why. "
            f"Where it does not even start, {INSTALL}"
        )
    _check(out, sum(math.ceil(count / SHARD) for count, _ in rows.values()))


def counted(out: Path) -> Counter:
    """How many pictures of the finished shards were asked for ("count") and came ("successes"); why others did not."""
    total = Counter()
    for path in sorted(out.glob("*_stats.json")):
        stats = json.loads(path.read_text())
        total.update({"count": stats["count"], "successes": stats["successes"]})
        total.update({reason: count for reason, count in stats["status_dict"].items() if reason != "success"})
    return total


def _program(given: Path | None) -> str:
    if given:
        if shutil.which(given) is None:
            raise UserError(f"{given}: there is no program; img2dataset is expected: {INSTALL}")
        return str(given)
    found = shutil.which("img2dataset") or shutil.which("img2dataset", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError(f"img2dataset is neither on PATH nor beside {sys.executable}: {INSTALL}")
    return found


def _rows(table: Path, columns: list[str], extra: list[str]) -> dict[str, tuple[int, int]]:
    """The table's parquet files, by name, with their rows and bytes; all of them must have the columns."""
    files = sorted(table.glob("*.parquet")) if table.is_dir() else [table]
    if not files or not files[0].is_file():
        raise UserError(f"{table}: there is no table; a parquet file or a folder of *.parquet files is expected")
    if taken := RESERVED & set(extra):
        raise UserError(f"{table}: {min(taken)} cannot be kept as it is: img2dataset fills a field of that name itself")
    rows = {}
    for file in files:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file}: cannot be read as parquet: {str(error).splitlines()[0]}") from error
        with opened:
            schema, rows[file.name] = opened.schema_arrow, (opened.metadata.num_rows, file.stat().st_size)
        if absent := [name for name in columns if name not in schema.names]:
            raise UserError(f"{file}: has no column {absent[0]!r}; it has {', '.join(schema.names)}")
        for name in extra:
            if not _plain(schema.field(name).type):
                raise UserError(
                    f"{file}: column {name!r} is {schema.field(name).type}; numbers, truth values or text are "
                    "expected, since it goes into each picture's .json"
                )
    if not any(count for count, _ in rows.values()):
        raise UserError(f"{table}: has no rows")
    return rows


def _plain(kind: pyarrow.DataType) -> bool:
    kinds = pyarrow.types
    tests = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_string, kinds.is_large_string)
    return any(test(kind) for test in tests)


def _record(out: Path, options: dict, rows: dict[str, tuple[int, int]]) -> None:
    """Write down what `out` is made from, or compare: a shard of another table would count as done."""
    told = "".join(f"{name}: {value}\n" for name, value in (options | {"rows and bytes": rows}).items())
    record = out / RECORD
    if record.is_file():
        if record.read_text() != told:
            raise UserError(
                f"{out}: was begun with another table or other options ({record}); "
                "give another folder, or delete this one to begin anew"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already, and no download of ours; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(told)


def _check(out: Path, shards: int) -> None:
    """img2dataset ends with status 0 also where shards or all pictures failed."""
    done = len(list(out.glob("*_stats.json")))
    if done < shards:
        raise UserError(f"{out}: {shards - done} of {shards} shards are not finished; run the same command again")
    total = counted(out)
    if not total["successes"]:
        ((reason, count),) = (total - Counter(count=total["count"])).most_common(1) or [("no reason given", 0)]
        raise UserError(
            f"{out}: none of {total['count']} pictures came, {count} of them for: {reason}; "
            "shards that are done are not tried again, so delete the folder before you do"
        )
