"""`prunella encode`: the encode stage's shards made by jobs of their own, each a part of them."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command
from prunella.errors import UserError


def register(commands: Commands) -> None:
    """Add the command."""
    about = "make a part of the encode stage's shards, anywhere, or put the parts together"
    parser = add_command(commands, "encode", about, _encode)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shards", metavar="K/N", help="make part K of N; the same command goes on with a begun one")
    merged = "folders of all parts, in any order; with encode.store none"
    what.add_argument("--merge", type=Path, nargs="*", metavar="PART", help=merged)
    parser.add_argument("--out", type=Path, help="of --shards: the part's folder (default: work/parts/K-of-N)")
    parser.add_argument("--teacher", type=Path, default=Path("models/teacher.json"))
    parser.add_argument("--pairs", type=Path, default=Path("data/filtered"))
    parser.add_argument("--own", metavar="NAME", help="an entry of finetune.data, whose pairs --pairs then names")


def _encode(given: argparse.Namespace) -> None:
    from prunella.compute.resume import work_root
    from prunella.params import read_params
    from prunella.pipeline.stage import select_dataset, silence_libraries

    silence_libraries(offline=False)
    from prunella.compute.device import resolve_device
    from prunella.compute.slices import parse_slice
    from prunella.encoding.slices import encode_part, merge_parts
    from prunella.models.pipeline import resolve_teacher_dir

    which = parse_slice(given.shards) if given.shards else None
    params = select_dataset(read_params(), given.own)
    for path, stage in ((given.teacher, "teacher"), (given.pairs, "filter")):
        if not path.exists():
            raise UserError(f"{path}: not there; `dvc repro {stage}` makes it")
    asked = params.encode, params.seed, resolve_teacher_dir(given.teacher), given.pairs
    if which is None:
        if not given.merge and not params.encode.store:
            raise UserError(
                "encode --merge: of which parts? Name their folders, or have shards on a store (encode.store)"
            )
        count = merge_parts(*asked, given.merge)
        stage = f"own_encode@{given.own}" if given.own else "encode"
        print(f"all {count} shards are there; `dvc repro {stage}` lists them")
        return
    out = given.out or work_root() / "parts" / f"{which.number}-of-{which.total}"
    tasks, where = encode_part(*asked, out, resolve_device(params.runtime), which, params.runtime.workers)
    print(f"part {which}: {len(tasks)} shards, {sum(len(task.pairs) for task in tasks):,} pairs in {where}")
