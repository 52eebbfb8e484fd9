"""The commit made a result: the hashes of files and folders, as DVC has them, of the trees in git's history."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prunella.compute.resume import CODE_SUFFIXES, digest_of_hashes
from prunella.errors import UserError

PACKAGE_DIR = "src/prunella"


def compute_folder_md5(files: dict[str, str]) -> str:
    """The hash that DVC 3 gives a folder: `files` are paths inside it and the md5 of their bytes."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir"


def run_git(root: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    """The output of a git command. Raises UserError with its own message when it fails."""
    command = ["git", "-c", "core.hooksPath=/dev/null", "-C", str(root), *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if result.returncode:
        raise UserError(f"git {arguments[0]}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


class GitHistory:
    """The commits below HEAD of the repository at `root`."""

    def __init__(self, root: Path):
        self.root = root
        self.blob_hashes: dict[str, tuple[str, str]] = {}  # blob → md5 and sha256 of its bytes

    def find_newest(self, matches: Callable[[str], bool], paths: list[str]) -> str | None:
        """The newest commit that `matches`, which looks at `paths` alone.

        HEAD, or the last before one of them changed.
        """
        commits = run_git(self.root, "log", "--full-history", "--format=%P", "HEAD", "--", *paths).decode().split()
        head = run_git(self.root, "rev-parse", "HEAD").decode().strip()
        return next((commit for commit in dict.fromkeys([head, *commits]) if matches(commit)), None)

    def has_hashes(self, commit: str, hashes: dict[str, str]) -> bool:
        """Whether the tree of `commit` gives these hashes (path → md5 as in dvc.lock)."""
        files = self._list_blobs(commit, list(hashes))
        return all(self._compute_path_md5(files, path) == md5 for path, md5 in hashes.items())

    def digest_code_at(self, commit: str, code_deps: tuple[str, ...]) -> str:
        """Like `prunella.compute.resume.digest_code` would give it in a checkout of `commit`."""
        files = self._list_blobs(commit, [f"{PACKAGE_DIR}/{dep}" for dep in code_deps])
        named_deps = set(code_deps)
        file_hashes = {path.removeprefix(f"{PACKAGE_DIR}/"): self.blob_hashes[blob][1] for path, blob in files.items()}
        return digest_of_hashes(
            {
                path: file_hash
                for path, file_hash in file_hashes.items()
                if path in named_deps or path.endswith(CODE_SUFFIXES)
            }
        )

    def read_text(self, commit: str, path: str) -> str:
        """A file as `commit` has it."""
        return run_git(self.root, "show", f"{commit}:{path}").decode()

    def _compute_path_md5(self, files: dict[str, str], path: str) -> str | None:
        if path in files:
            return self.blob_hashes[files[path]][0]
        files_inside = {
            name.removeprefix(f"{path}/"): blob for name, blob in files.items() if name.startswith(f"{path}/")
        }
        included_hashes = {
            name: self.blob_hashes[blob][0] for name, blob in files_inside.items() if not _is_dvcignored(name)
        }
        return compute_folder_md5(included_hashes) if included_hashes else None

    def _list_blobs(self, commit: str, paths: list[str]) -> dict[str, str]:
        """Path → blob of the files below `paths`; their sums are known then."""
        listing = run_git(self.root, "ls-tree", "-r", "-z", commit, "--", *paths).decode(errors="surrogateescape")
        rows = [row.split("\t", 1) for row in listing.split("\0") if row]
        files = {path: info.split()[2] for info, path in rows if info.split()[1] == "blob"}
        self._hash_blobs({blob for blob in files.values() if blob not in self.blob_hashes})
        return files

    def _hash_blobs(self, blobs: set[str]) -> None:
        if not blobs:
            return
        output = run_git(self.root, "cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in blobs).encode())
        while output:
            head, _, output = output.partition(b"\n")
            blob, _, size = head.decode().split()
            content, output = output[: int(size)], output[int(size) + 1 :]
            self.blob_hashes[blob] = (hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())


def _is_dvcignored(path: str) -> bool:
    """Whether the repository's .dvcignore leaves the file out."""
    return path.endswith(".pyc") or "__pycache__" in path.split("/")


@contextmanager
def checkout(root: Path, commit: str, folder: Path) -> Iterator[Path]:
    """The tree of `commit` in a new `folder`, a worktree that is removed afterwards."""
    run_git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        run_git(root, "worktree", "remove", "--force", str(folder))
