"""A folder ready for the Hub: the stock pipeline, its card, its pictures; and its push."""

import shutil
from pathlib import Path

from prunella.errors import UserError
from prunella.export.folders import link_files, model_files
from prunella.export.model_card import card
from prunella.storage.files import whole_folder

PICTURES = Path("reports/images")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def write_hub(folder: Path, out: Path, repo: str | None, licence: str | None) -> list[str]:
    """Make `out` a folder for the Hub of the pipeline `folder`; the names of its files.

    Weights are linked, not copied, where the file system can. `repo` is the name on the Hub that the card's snippet
    loads; without one it loads `out`. Raises UserError where `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").is_file():
        raise UserError(f"--out: {out} is there already and is no model; name another folder")
    with whole_folder(out) as half:
        link_files(folder, half, model_files(folder))
        pictures = _pictures(folder, half)
        (half / "README.md").unlink(missing_ok=True)
        (half / "README.md").write_text(card(folder, repo or str(out), licence, pictures), encoding="utf-8")
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _pictures(folder: Path, out: Path) -> tuple[str, ...]:
    """Copy the report's pictures of this student."""
    found = sorted(PICTURES.glob(f"{folder.name}*.png"))
    for path in found:
        shutil.copy2(path, out / path.name)
    return tuple(path.name for path in found)


def push(out: Path, repo: str, private: bool) -> str:
    """Upload a folder to the Hub as one commit; the commit's address. The token is the Hub's own login's.

    Raises UserError where that fails, with nothing of the token in it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=out, commit_message="Upload by prunella export"))
    except LocalTokenNotFoundError:
        raise UserError(f"the Hub asks who you are: {LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise UserError(f"the Hub refused {repo} ({status}); may you write there? If not: {LOGIN}") from None
    except OSError as error:  # no network, or offline
        raise UserError(f"the Hub cannot be reached: {type(error).__name__}; {out} is ready, push it later") from None
