"""Run every stage of the toy on a small file system (tmpfs) that is full at times; a script of its own namespace.

Arguments: the clone where nothing has run, where to mount, the JSON file to write. Its input is what each stage took.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from faulty import FOLDER, STAGES, lost
from toygraph import DVC, ENVIRONMENT

SIZE = 3_000_000_000  # bytes
SHARES = (0.0, 0.5)  # of what the stage wrote in peace, which it is left


def full(clone: Path, stage: str, room: int) -> dict | None:
    """Run a stage with `room` bytes free; {"room", "said": what it was told, "traceback"} where it failed."""
    ballast = clone.parent / "ballast"
    space = os.statvfs(clone)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize - room))
    command = [DVC, "repro", stage]
    done = subprocess.run(command, cwd=clone, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    ballast.unlink()
    if not done.returncode:
        return None
    words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    name, errors = stage.partition("@")[0], [line for line in words if line.startswith("ERROR")]
    ours = [line for line in words if line.startswith(f"{name}: ") and "failed to run" in "".join(errors)]
    said = [*words, *errors, *ours][-1]  # the stage's last word where it failed, else DVC's
    return {"room": room, "said": said, "traceback": any(line.startswith("Traceback") for line in words)}


def main(origin: Path, place: Path, log: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], check=True)
    clone, took, found = place / "clone", json.load(sys.stdin), {}
    shutil.copytree(origin, clone, symlinks=True)
    for stage in STAGES:
        tries = [full(clone, stage, int(share * took[stage]["bytes"])) for share in SHARES]
        subprocess.run([DVC, "repro", stage], cwd=clone, env=ENVIRONMENT, check=True)
        found[stage] = {"failed": [each for each in tries if each]}
        print(stage, found[stage], flush=True)
    for stage in STAGES:
        found[stage]["lost"] = lost(clone, FOLDER / "quiet", stage)
    halves = [str(path) for name in ("models", "data", "work") for path in (clone / name).rglob("*.half")]
    log.write_text(json.dumps({stage: row | {"halves": halves} for stage, row in found.items()}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
