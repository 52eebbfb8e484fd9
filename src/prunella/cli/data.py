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
    from prunella.cli.download import download
    from prunella.params import read_params

    total = download(
        given.table,
        given.out,
        criteria=read_params(given.params).filter if given.params else None,
        url=given.url,
        caption=given.caption,
        extra=given.keep,
        size=given.size,
        processes=given.processes,
        program=given.img2dataset,
    )
    print(f"{total['successes']:,} of {total['count']:,} pictures in {given.out}")
