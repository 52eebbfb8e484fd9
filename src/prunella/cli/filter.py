"""`prunella filter`: the pictures of the filter stage looked at by jobs of their own, each a part of them."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the command."""
    description = "run a slice of the filter stage on any machine, or merge slices"
    parser = add_command(commands, "filter", description, _run_filter)
    mode_group = parser.add_mutually_exclusive_group(required=True)
    mode_group.add_argument(
        "--slice", metavar="K/N", help="look at part K of N; the same command goes on with a begun one"
    )
    mode_group.add_argument("--merge", type=Path, nargs="+", metavar="PART", help="folders of all parts, in any order")
    parser.add_argument("--out", type=Path, help="of --slice: the part's folder (default: work/parts/filter-K-of-N)")
    parser.add_argument("--own", metavar="NAME", help="an entry of finetune.data, whose pictures they are")


def _run_filter(args: argparse.Namespace) -> None:
    from prunella.compute.resume import work_root
    from prunella.compute.slices import parse_slice
    from prunella.data.image_checks import load_aesthetic_scorer
    from prunella.data.slices import filter_slice, merge_filter_slices
    from prunella.params import read_params
    from prunella.pipeline.stage import select_dataset, silence_libraries

    silence_libraries(offline=False)
    task_slice = parse_slice(args.slice) if args.slice else None
    params = select_dataset(read_params(), args.own)
    if task_slice is None:
        num_images = merge_filter_slices(params.filter, params.seed, args.merge)
        stage = f"own_filter@{args.own}" if args.own else "filter"
        print(f"all {num_images:,} pictures were looked at; `dvc repro {stage}` judges them")
        return

    def get_device() -> str:
        from prunella.compute.device import resolve_device

        return resolve_device(params.runtime)

    out_dir = args.out or work_root() / "parts" / f"filter-{task_slice.number}-of-{task_slice.total}"
    scorer = load_aesthetic_scorer(params.filter, get_device)
    stats = filter_slice(params.filter, params.seed, out_dir, task_slice, params.runtime.workers, scorer)
    print(
        f"part {task_slice}: {stats.images:,} pictures in {stats.tasks} tasks, {stats.rejected:,} cannot be used, "
        f"in {out_dir}"
    )
