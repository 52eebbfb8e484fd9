"""`prunella download`: pictures for the filter."""

import argparse
import os
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(
        commands, "download", "download the images of a table of URLs as a webdataset, with img2dataset", _run_download
    )
    parser.add_argument("table", type=Path, help="a Parquet file, or a folder of them")
    parser.add_argument("out", type=Path, help="folder of the webdataset; the same command continues one")
    parser.add_argument("--params", type=Path, help="fetch only what passes the criteria of this file's filter section")
    parser.add_argument("--url", default="URL", help="column (default: URL, as LAION's)")
    parser.add_argument("--caption", default="TEXT", help="column (default: TEXT)")
    parser.add_argument("--keep", nargs="*", default=[], metavar="COLUMN", help="scores to keep: aesthetic, punsafe, …")
    parser.add_argument(
        "--size", type=int, help="pixels of the shorter side, where it is longer (default: as they are)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--img2dataset", type=Path, help="its program (default: on PATH, or beside this Python)")


def _run_download(args: argparse.Namespace) -> None:
    from prunella.cli.download import download_images
    from prunella.params import read_params

    counts = download_images(
        args.table,
        args.out,
        criteria=read_params(args.params).filter if args.params else None,
        url=args.url,
        caption=args.caption,
        extra=args.keep,
        size=args.size,
        processes=args.processes,
        program=args.img2dataset,
    )
    print(f"{counts['successes']:,} of {counts['count']:,} pictures in {args.out}")
