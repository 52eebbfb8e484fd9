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

from prunella.cli.proxy import run_filtering_proxy
from prunella.data.filter import filter_urls
from prunella.errors import UserError
from prunella.params import Filter
from prunella.storage.files import sha256

ROWS_PER_SHARD = 10_000  # rows; img2dataset's default, written out because keys and restarts depend on it
RECORD_FILE = "download.txt"  # no .json: img2dataset takes every one in the folder for a shard's
INSTALL_HINT = (
    "install it in an environment of its own, with Python 3.12 or older: `pipx install --python 3.11 img2dataset`, or "
    "`python3.11 -m venv FOLDER; FOLDER/bin/pip install img2dataset` and point at FOLDER/bin/img2dataset"
)


def download_images(
    table: Path,
    out_dir: Path,
    *,
    criteria: Filter | None,
    url: str,
    caption: str,
    extra: list[str],
    size: int | None,
    processes: int,
    program: Path | None = None,
    proxy: Callable[[], AbstractContextManager[str]] = run_filtering_proxy,
) -> Counter:
    """Fetch the pictures of `table`, a Parquet file or a folder of them, into a webdataset at `out`; return the counts.

    Only rows that pass `criteria` are fetched; they are written beside `out`. `url`, `caption` and `extra` (scores) are
    columns. Pictures whose shorter side exceeds `size` pixels are made smaller (None: none is). The same call continues
    an interrupted one. `program` is img2dataset's, else the one on PATH or beside this Python.
    Raises UserError where the table or `out` do not fit, where img2dataset is missing or fails, or where nothing came.
    """
    executable, selected_table = _find_img2dataset(program), out_dir.with_name(f"{out_dir.name}.parquet")
    selected_table.parent.mkdir(parents=True, exist_ok=True)
    num_read, num_selected = filter_urls(criteria, table, selected_table, {"url": url, "text": caption})
    print(f"{num_selected:,} of {num_read:,} rows are to be fetched: {selected_table}", flush=True)
    column_names = pyarrow.parquet.read_schema(selected_table).names
    if missing_columns := [name for name in extra if name not in column_names]:
        raise UserError(f"{table}: has no column {missing_columns[0]!r} to keep; it has {', '.join(column_names)}")
    options = {
        "input_format": "parquet",
        "url_col": url,
        "caption_col": caption,
        "save_additional_columns": extra or None,
        "output_format": "webdataset",
        "number_sample_per_shard": ROWS_PER_SHARD,
        "encode_format": "jpg",
        "encode_quality": 95,
        "skip_reencode": True,
        **({"resize_mode": "no"} if size is None else {"resize_mode": "keep_ratio", "image_size": size}),
        "resize_only_if_bigger": True,
    }
    _check_or_write_record(out_dir, json.dumps(options | {"rows": sha256(selected_table)}, indent=1) + "\n")
    path_options = {"url_list": str(selected_table.resolve()), "output_folder": str(out_dir.resolve())}
    options = path_options | options | {"processes_count": processes, "incremental_mode": "incremental"}
    # img2dataset reads values as Python literals where it can: a bare 1e5 or None would not stay a name.
    command = [executable, *(f"--{name}={value!r}" for name, value in options.items() if value is not None)]
    with proxy() as proxy_url:
        process = subprocess.run(command, env=_make_proxy_environment(proxy_url), check=False)
    if process.returncode:
        raise UserError(
            f"{executable} ended with status {process.returncode}; what it printed above says why. "
            f"Where it does not even start, {INSTALL_HINT}"
        )
    return _count_downloads(out_dir, math.ceil(num_selected / ROWS_PER_SHARD))


def _find_img2dataset(program: Path | None) -> str:
    if program:
        if shutil.which(program) is None:
            raise UserError(f"{program}: there is no program; img2dataset is expected: {INSTALL_HINT}")
        return str(program)
    executable = shutil.which("img2dataset") or shutil.which("img2dataset", path=str(Path(sys.executable).parent))
    if executable is None:
        raise UserError(f"img2dataset is neither on PATH nor beside {sys.executable}: {INSTALL_HINT}")
    return executable


def _make_proxy_environment(proxy_url: str) -> dict[str, str]:
    """This environment, in which the web is reached through `proxy` alone (ftp too, which it refuses)."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    # One of img2dataset's libraries asks the package index for a newer version each time that it is imported.
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1"}
    return environment | {f"{kind}_proxy": proxy_url for kind in ("http", "https", "ftp", "all")}


def _check_or_write_record(out_dir: Path, record_text: str) -> None:
    """Note what `out` is made from, or compare: a shard of another table would count as done."""
    record_path = out_dir / RECORD_FILE
    if record_path.is_file():
        if record_path.read_text(encoding="utf-8") != record_text:
            raise UserError(
                f"{out_dir}: was begun with another table or other options ({record_path}); "
                "give another folder, or delete this one to begin anew"
            )
        return
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir}: is there already, and no download of ours; give a new folder")
    out_dir.mkdir(parents=True, exist_ok=True)
    record_path.write_text(record_text, encoding="utf-8")


def _count_downloads(out_dir: Path, num_shards: int) -> Counter:
    """How many pictures were asked for ("count") and came ("successes"); img2dataset ends with 0 also if none did."""
    stats = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out_dir.glob("*_stats.json"))]
    if len(stats) < num_shards:
        raise UserError(
            f"{out_dir}: {num_shards - len(stats)} of {num_shards} shards are not finished; run the same command again"
        )
    counts: Counter[str] = Counter()
    failure_counts: Counter[str] = Counter()
    for shard_stats in stats:
        counts.update(count=shard_stats["count"], successes=shard_stats["successes"])
        failure_counts.update(
            {reason: count for reason, count in shard_stats["status_dict"].items() if reason != "success"}
        )
    if not counts["successes"]:
        ((reason, count),) = failure_counts.most_common(1) or [("no reason given", 0)]
        raise UserError(
            f"{out_dir}: none of {counts['count']} pictures came, {count} of them for: {reason}; "
            "shards that are done are not tried again, so delete the folder before you do"
        )
    return counts
