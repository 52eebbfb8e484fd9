"""`prunella bench paper`: what very many pairs would take, counted, with what is assumed as arguments."""

from __future__ import annotations

import argparse

from prunella.cli.arguments import Commands, add_command


def register(kinds: Commands) -> None:
    """Add this command to those of `prunella bench`."""
    about = (
        "what encoding and distilling very many pairs would take: bytes, operations, hours, prices; measures nothing"
    )
    paper = add_command(kinds, "paper", about, _paper)
    paper.add_argument("--tflops", type=float, default=989, help="of a GPU at its peak (default: H100 SXM, dense bf16)")
    paper.add_argument("--share", type=float, default=0.4, help="of the peak that is reached; assumed")
    paper.add_argument("--gpus", type=int, default=8, help="in a node")
    paper.add_argument("--picture", type=float, default=100, help="KB of a file for 512 x 512 pixels; assumed")
    paper.add_argument("--price", type=float, default=2.35, help="of a GPU for an hour (docs/scale.md has the source)")
    paper.add_argument("--storage", type=float, default=0.023, help="price of a GB for a month (docs/scale.md)")


def _paper(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.paper import Assumed, run, table
    from prunella.reporting.summary import format_table

    assumed = Assumed(**{name: getattr(given, name) for name in Assumed._fields})
    runs = [run("sd-small", 8_000_000), run("sd-small", 100_000_000, epochs=1), run("ssd-1b")]
    print(format_table(table(runs, assumed)))
