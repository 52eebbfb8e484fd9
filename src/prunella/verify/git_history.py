"""Which commit made a result: the hashes of files and folders, as DVC has them, of the trees in git's history."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prunella.compute.resume import CODE_FILES, sums_digest
from prunella.errors import UserError

PACKAGE = "src/prunella"


def folder_md5(files: dict[str, str]) -> str:
    """The hash that DVC 3 gives a folder: `files` are paths inside it and the md5 of their bytes."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir"


def git(root: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """What a git command prints. Raises UserError with its own message when it fails."""
    command = ["git", "-c", "core.hooksPath=/dev/null", "-C", str(root), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


class History:
    """The commits below HEAD of the repository at `root`."""

    def __init__(self, root: Path):
        self.root = root
        self.known: dict[str, tuple[str, str]] = {}  # blob → md5 and sha256 of its bytes

    def newest(self, fits: Callable[[str], bool], paths: list[str]) -> str | None:
        """The newest commit that `fits`, which looks at `paths` alone: HEAD, or the last before one of them changed."""
        listed = git(self.root, "log", "--full-history", "--format=%P", "HEAD", "--", *paths).decode().split()
        head = git(self.root, "rev-parse", "HEAD").decode().strip()
        return next((commit for commit in dict.fromkeys([head, *listed]) if fits(commit)), None)

    def gives(self, commit: str, hashes: dict[str, str]) -> bool:
        """Whether the tree of `commit` gives these hashes (path → md5 as in dvc.lock)."""
        files = self._files(commit, list(hashes))
        return all(self._md5(files, path) == md5 for path, md5 in hashes.items())

    def code_digest(self, commit: str, rooms: tuple[str, ...]) -> str:
        """As `prunella.compute.resume.code_digest` would give it in a checkout of `commit`."""
        files = self._files(commit, [f"{PACKAGE}/{room}" for room in rooms])
        named = set(rooms)
        sums = {path.removeprefix(f"{PACKAGE}/"): self.known[blob][1] for path, blob in files.items()}
        return sums_digest({path: each for path, each in sums.items() if path in named or path.endswith(CODE_FILES)})

    def text(self, commit: str, path: str) -> str:
        """A file as `commit` has it."""
        return git(self.root, "show", f"{commit}:{path}").decode()

    def _md5(self, files: dict[str, str], path: str) -> str | None:
        if path in files:
            return self.known[files[path]][0]
        inside = {name.removeprefix(f"{path}/"): blob for name, blob in files.items() if name.startswith(f"{path}/")}
        kept = {name: self.known[blob][0] for name, blob in inside.items() if not _ignored(name)}
        return folder_md5(kept) if kept else None

    def _files(self, commit: str, paths: list[str]) -> dict[str, str]:
        """Path → blob of the files below `paths`; their sums are known then."""
        listed = git(self.root, "ls-tree", "-r", "-z", commit, "--", *paths).decode(errors="surrogateescape")
        rows = [row.split("\t", 1) for row in listed.split("\0") if row]
        files = {path: about.split()[2] for about, path in rows if about.split()[1] == "blob"}
        self._read({blob for blob in files.values() if blob not in self.known})
        return files

    def _read(self, blobs: set[str]) -> None:
        if not blobs:
            return
        said = git(self.root, "cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode())
        while said:
            head, _, said = said.partition(b"\n")
            blob, _, size = head.decode().split()
            content, said = said[: int(size)], said[int(size) + 1 :]
            self.known[blob] = (hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())


def _ignored(path: str) -> bool:
    """Whether the repository's .dvcignore leaves the file out."""
    return path.endswith(".pyc") or "__pycache__" in path.split("/")


@contextmanager
def checkout(root: Path, commit: str, folder: Path) -> Iterator[Path]:
    """The tree of `commit` in a new `folder`, a worktree that is removed afterwards."""
    git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git(root, "worktree", "remove", "--force", str(folder))
