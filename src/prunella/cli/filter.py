"""`prunella filter`: the pictures of the filter stage looked at by jobs of their own, each a part of them."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the command."""
    about = "look at a part of the filter stage's pictures, anywhere, or put the parts together"
    parser = add_command(commands, "filter", about, _filter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shards", metavar="K/N", help="look at part K of N; the same command goes on with a begun one")
    what.add_argument("--merge", type=Path, nargs="+", metavar="PART", help="folders of all parts, in any order")
    parser.add_argument("--out", type=Path, help="of --shards: the part's folder (default: work/parts/filter-K-of-N)")
    parser.add_argument("--own", metavar="NAME", help="an entry of finetune.data, whose pictures they are")


def _filter(given: argparse.Namespace) -> None:
    from prunella.compute.resume import work_root
    from prunella.compute.slices import parse_slice
    from prunella.data.image_checks import load_aesthetic_scorer
    from prunella.data.slices import filter_slice, merge_filter_slices
    from prunella.params import read_params
    from prunella.pipeline.stage import select_dataset, silence_libraries

    silence_libraries(offline=False)
    which = parse_slice(given.shards) if given.shards else None
    params = select_dataset(read_params(), given.own)
    if which is None:
        count = merge_filter_slices(params.filter, params.seed, given.merge)
        stage = f"own_filter@{given.own}" if given.own else "filter"
        print(f"all {count:,} pictures were looked at; `dvc repro {stage}` judges them")
        return

    def device() -> str:
        from prunella.compute.device import resolve_device

        return resolve_device(params.runtime)

    out = given.out or work_root() / "parts" / f"filter-{which.number}-of-{which.total}"
    score = load_aesthetic_scorer(params.filter, device)
    made = filter_slice(params.filter, params.seed, out, which, params.runtime.workers, score)
    print(f"part {which}: {made.images:,} pictures in {made.tasks} tasks, {made.rejected:,} cannot be used, in {out}")
