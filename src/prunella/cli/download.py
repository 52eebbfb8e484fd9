"""Starts img2dataset (github.com/rom1504/img2dataset), which fetches the pictures of a table of URLs into a webdataset.

It is run as a program, never imported: it needs older packages than Prunella's (pandas 2) and Python 3.12 or older, so
it lives in an environment of its own. It is given http and https URLs only, and reaches the web through a proxy that
refuses addresses of this machine and of inner networks (see `prunella.cli.proxy`): the table is strangers' text.
It writes tars of SHARD rows (000000000.jpg, .txt, .json), and 00000_stats.json for each once it is finished.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow.parquet

from prunella.cli.proxy import filtering_proxy
from prunella.data.filter import filter_urls
from prunella.errors import UserError
from prunella.params import Filter
from prunella.storage.files import sha256

SHARD = 10_000  # rows; img2dataset's default, written out because keys and restarts depend on it
RECORD = "download.txt"  # no .json: img2dataset takes every one in the folder for a shard's
INSTALL = (
    "install it in an environment of its own, with Python 3.12 or older: `pipx install --python 3.11 img2dataset`, or "
    "`python3.11 -m venv FOLDER; FOLDER/bin/pip install img2dataset` and point at FOLDER/bin/img2dataset"
)


def download(
    table: Path,
    out: Path,
    *,
    criteria: Filter | None,
    url: str,
    caption: str,
    extra: list[str],
    size: int | None,
    processes: int,
    program: Path | None = None,
    proxy: Callable[[], AbstractContextManager[str]] = filtering_proxy,
) -> Counter:
    """Fetch the pictures of `table`, a Parquet file or a folder of them, into a webdataset at `out`; return the counts.

    Only rows that pass `criteria` are fetched; they are written beside `out`. `url`, `caption` and `extra` (scores) are
    columns. Pictures whose shorter side exceeds `size` pixels are made smaller (None: none is). The same call continues
    an interrupted one. `program` is img2dataset's, else the one on PATH or beside this Python.
    Raises UserError where the table or `out` do not fit, where img2dataset is missing or fails, or where nothing came.
    """
    found, chosen = _program(program), out.with_name(f"{out.name}.parquet")
    chosen.parent.mkdir(parents=True, exist_ok=True)
    read, written = filter_urls(criteria, table, chosen, {"url": url, "text": caption})
    print(f"{written:,} of {read:,} rows are to be fetched: {chosen}", flush=True)
    names = pyarrow.parquet.read_schema(chosen).names
    if absent := [name for name in extra if name not in names]:
        raise UserError(f"{table}: has no column {absent[0]!r} to keep; it has {', '.join(names)}")
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
    _begin(out, json.dumps(options | {"rows": sha256(chosen)}, indent=1) + "\n")
    places = {"url_list": str(chosen.resolve()), "output_folder": str(out.resolve())}
    options = places | options | {"processes_count": processes, "incremental_mode": "incremental"}
    # img2dataset reads values as Python literals where it can: a bare 1e5 or None would not stay a name.
    command = [found, *(f"--{name}={value!r}" for name, value in options.items() if value is not None)]
    with proxy() as address:
        ended = subprocess.run(command, env=_environment(address), check=False)
    if ended.returncode:
        raise UserError(
            f"{found} ended with status {ended.returncode}; what it printed above says why. "
            f"Where it does not even start, {INSTALL}"
        )
    return _counted(out, math.ceil(written / SHARD))


def _program(given: Path | None) -> str:
    if given:
        if shutil.which(given) is None:
            raise UserError(f"{given}: there is no program; img2dataset is expected: {INSTALL}")
        return str(given)
    found = shutil.which("img2dataset") or shutil.which("img2dataset", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError(f"img2dataset is neither on PATH nor beside {sys.executable}: {INSTALL}")
    return found


def _environment(proxy: str) -> dict[str, str]:
    """This environment, in which the web is reached through `proxy` alone (ftp too, which it refuses)."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    # One of img2dataset's libraries asks the package index for a newer version each time that it is imported.
    kept |= {"NO_ALBUMENTATIONS_UPDATE": "1"}
    return kept | {f"{kind}_proxy": proxy for kind in ("http", "https", "ftp", "all")}


def _begin(out: Path, told: str) -> None:
    """Note what `out` is made from, or compare: a shard of another table would count as done."""
    record = out / RECORD
    if record.is_file():
        if record.read_text(encoding="utf-8") != told:
            raise UserError(
                f"{out}: was begun with another table or other options ({record}); "
                "give another folder, or delete this one to begin anew"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already, and no download of ours; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(told, encoding="utf-8")


def _counted(out: Path, shards: int) -> Counter:
    """How many pictures were asked for ("count") and came ("successes"); img2dataset ends with 0 also if none did."""
    stats = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*_stats.json"))]
    if len(stats) < shards:
        raise UserError(f"{out}: {shards - len(stats)} of {shards} shards are not finished; run the same command again")
    total: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for each in stats:
        total.update(count=each["count"], successes=each["successes"])
        failed.update({reason: count for reason, count in each["status_dict"].items() if reason != "success"})
    if not total["successes"]:
        ((reason, count),) = failed.most_common(1) or [("no reason given", 0)]
        raise UserError(
            f"{out}: none of {total['count']} pictures came, {count} of them for: {reason}; "
            "shards that are done are not tried again, so delete the folder before you do"
        )
    return total
