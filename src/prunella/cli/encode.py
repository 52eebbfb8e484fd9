"""`prunella encode`: the encode stage's shards made by jobs of their own, each a part of them."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command
from prunella.errors import UserError


def register(commands: Commands) -> None:
    """Add the command."""
    description = "run a slice of the encode stage on any machine, or merge slices"
    parser = add_command(commands, "encode", description, _run_encode)
    mode_group = parser.add_mutually_exclusive_group(required=True)
    mode_group.add_argument(
        "--slice", metavar="K/N", help="make part K of N; the same command goes on with a begun one"
    )
    merge_help = "folders of all parts, in any order; with encode.store none"
    mode_group.add_argument("--merge", type=Path, nargs="*", metavar="PART", help=merge_help)
    parser.add_argument("--out", type=Path, help="of --slice: the part's folder (default: work/parts/K-of-N)")
    parser.add_argument("--teacher", type=Path, default=Path("models/teacher.json"))
    parser.add_argument("--pairs", type=Path, default=Path("data/filtered"))
    parser.add_argument("--own", metavar="NAME", help="an entry of finetune.data, whose pairs --pairs then names")


def _run_encode(args: argparse.Namespace) -> None:
    from prunella.compute.resume import work_root
    from prunella.params import read_params
    from prunella.pipeline.stage import select_dataset, silence_libraries

    silence_libraries(offline=False)
    from prunella.compute.device import resolve_device
    from prunella.compute.slices import parse_slice
    from prunella.encoding.slices import encode_slice, merge_encode_slices
    from prunella.models.pipeline import resolve_teacher_dir

    shard_slice = parse_slice(args.slice) if args.slice else None
    params = select_dataset(read_params(), args.own)
    for path, stage in ((args.teacher, "teacher"), (args.pairs, "filter")):
        if not path.exists():
            raise UserError(f"{path}: not there; `dvc repro {stage}` makes it")
    encode_args = params.encode, params.seed, resolve_teacher_dir(args.teacher), args.pairs
    if shard_slice is None:
        if not args.merge and not params.encode.store:
            raise UserError(
                "encode --merge: of which parts? Name their folders, or have shards on a store (encode.store)"
            )
        num_shards = merge_encode_slices(*encode_args, args.merge)
        stage = f"own_encode@{args.own}" if args.own else "encode"
        print(f"all {num_shards} shards are there; `dvc repro {stage}` lists them")
        return
    out_dir = args.out or work_root() / "parts" / f"{shard_slice.number}-of-{shard_slice.total}"
    tasks, location = encode_slice(
        *encode_args, out_dir, resolve_device(params.runtime), shard_slice, params.runtime.workers
    )
    print(f"part {shard_slice}: {len(tasks)} shards, {sum(len(task.pairs) for task in tasks):,} pairs in {location}")
