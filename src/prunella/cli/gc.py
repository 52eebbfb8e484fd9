"""`prunella gc`: the states of finished trainings and encodings in work/, and their removal."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(commands, "gc", "list work/ and remove the states of finished runs", _run_gc)
    parser.add_argument("--all", action="store_true", help="remove the states of unfinished runs too")
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and remove nothing")


def _run_gc(args: argparse.Namespace) -> None:
    from prunella.compute.resume import work_root

    work_dir = work_root()
    run_dirs = [run_dir for stage_dir in sorted(work_dir.glob("*")) for run_dir in _list_run_dirs(stage_dir)]
    freed_bytes = sum(_remove_run_dir(run_dir, args) for run_dir in run_dirs) + _remove_cached_copies(
        work_dir / "cache", args
    )
    print(f"{_format_gigabytes(freed_bytes)} {'would be freed' if args.dry_run else 'freed'} in {work_dir}")


def _remove_cached_copies(cache_dir: Path, args: argparse.Namespace) -> int:
    """Remove the copies of shards on stores, where any are; the bytes freed. A process that reads one goes on reading
    it."""
    from prunella.compute.resume import dir_size

    if not (num_bytes := dir_size(cache_dir)):
        return 0
    print(f"{cache_dir.name:10} {'copies of shards':16}  {_format_gigabytes(num_bytes):>9}  ", end="")
    print("would be removed" if args.dry_run else "removed")
    for cached_file in () if args.dry_run else cache_dir.iterdir():
        cached_file.unlink(missing_ok=True)
    return num_bytes


def _list_run_dirs(stage_dir: Path) -> list[Path]:
    """The folders of a stage's runs, each of which has its identity noted."""
    from prunella.compute.resume import IDENTITY_FILE

    return [path.parent for path in sorted(stage_dir.glob(f"*/{IDENTITY_FILE}"))]


def _remove_run_dir(run_dir: Path, args: argparse.Namespace) -> int:
    """Remove a run's folder where that is asked for and nobody has it; the bytes freed."""
    from prunella.compute.resume import DONE_FILE, dir_size, lock_run_dir, remove_run_dir

    is_finished, num_bytes = (run_dir / DONE_FILE).is_file(), dir_size(run_dir)
    with lock_run_dir(run_dir, wait=False) as is_free:
        pass
    should_remove = is_free and (is_finished or args.all) and (args.dry_run or remove_run_dir(run_dir))
    state = "finished" if is_finished else "unfinished"
    outcome = (
        "in use" if not is_free else "kept" if not should_remove else "would be removed" if args.dry_run else "removed"
    )
    print(f"{run_dir.parent.name:10} {run_dir.name}  {_format_gigabytes(num_bytes):>9}  {state:10}  {outcome}")
    return num_bytes if should_remove else 0


def _format_gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
