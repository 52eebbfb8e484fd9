"""`prunella download`: pictures for the filter."""

import argparse
import os
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    fetch = add_command(
        commands, "download", "fetch the pictures of a table of URLs into a webdataset, by img2dataset", _download
    )
    fetch.add_argument("table", type=Path, help="a Parquet file, or a folder of them")
    fetch.add_argument("out", type=Path, help="folder of the webdataset; the same command continues one")
    fetch.add_argument("--params", type=Path, help="fetch only what passes the criteria of this file's filter section")
    fetch.add_argument("--url", default="URL", help="column (default: URL, as LAION's)")
    fetch.add_argument("--caption", default="TEXT", help="column (default: TEXT)")
    fetch.add_argument("--keep", nargs="*", default=[], metavar="COLUMN", help="scores to keep: aesthetic, punsafe, …")
    fetch.add_argument("--size", type=int, help="pixels of the shorter side, where it is longer (default: as they are)")
    fetch.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    fetch.add_argument("--img2dataset", type=Path, help="its program (default: on PATH, or beside this Python)")


def _download(given: argparse.Namespace) -> None:
    from prunella.cli.download import counted, download
    from prunella.data.filter import shortlisted
    from prunella.params import read_params

    table = given.table
    if given.params:
        table = given.out.with_name(f"{given.out.name}.parquet")
        table.parent.mkdir(parents=True, exist_ok=True)
        columns = {"url": given.url, "text": given.caption}
        read, written = shortlisted(read_params(given.params).filter, given.table, table, columns)
        print(f"{written:,} of {read:,} rows pass: {table}", flush=True)
    download(table, given.out, given.url, given.caption, given.keep, given.size, given.processes, given.img2dataset)
    total = counted(given.out)
    print(f"{total['successes']:,} of {total['count']:,} pictures in {given.out}")
