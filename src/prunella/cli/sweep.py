"""`prunella sweep`: the states of finished trainings and encodings in work/, and their removal."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    sweep = add_command(commands, "sweep", "say what work/ holds, and remove the states of finished runs", _sweep)
    sweep.add_argument("--all", action="store_true", help="remove those of unfinished runs too")
    sweep.add_argument("--dry-run", action="store_true", help="remove nothing, say only what would be removed")


def _sweep(given: argparse.Namespace) -> None:
    from prunella.compute.resume import work_root

    root = work_root()
    folders = [folder for stage in sorted(root.glob("*")) for folder in _runs(stage)]
    freed = sum(_swept(folder, given) for folder in folders) + _copies(root / "cache", given)
    print(f"{_gigabytes(freed)} {'would be freed' if given.dry_run else 'freed'} in {root}")


def _copies(folder: Path, given: argparse.Namespace) -> int:
    """Remove the copies of shards on stores, where any are; the bytes freed. Who reads one goes on reading it."""
    from prunella.compute.resume import dir_size

    if not (held := dir_size(folder)):
        return 0
    print(f"{folder.name:10} {'copies of shards':16}  {_gigabytes(held):>9}  ", end="")
    print("would be removed" if given.dry_run else "removed")
    for copy in () if given.dry_run else folder.iterdir():
        copy.unlink(missing_ok=True)
    return held


def _runs(stage: Path) -> list[Path]:
    """The folders of a stage's runs, each of which has its identity noted."""
    from prunella.compute.resume import IDENTITY_FILE

    return [path.parent for path in sorted(stage.glob(f"*/{IDENTITY_FILE}"))]


def _swept(folder: Path, given: argparse.Namespace) -> int:
    """Remove a run's folder where that is asked for and nobody has it; the bytes freed."""
    from prunella.compute.resume import DONE_FILE, dir_size, lock_run_dir, remove_run_dir

    done, held = (folder / DONE_FILE).is_file(), dir_size(folder)
    with lock_run_dir(folder, wait=False) as free:
        pass
    wanted = free and (done or given.all) and (given.dry_run or remove_run_dir(folder))
    state = "finished" if done else "unfinished"
    fate = "in use" if not free else "kept" if not wanted else "would be removed" if given.dry_run else "removed"
    print(f"{folder.parent.name:10} {folder.name}  {_gigabytes(held):>9}  {state:10}  {fate}")
    return held if wanted else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
