"""A folder ready for the Hub: the stock pipeline, its card, its pictures; and its push."""

import shutil
from pathlib import Path

from prunella.errors import UserError
from prunella.export.folders import iter_model_files, link_files
from prunella.export.model_card import render_model_card
from prunella.storage.files import atomic_folder

REPORT_IMAGES = Path("reports/images")
LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"


def write_hub_folder(folder: Path, out: Path, repo_id: str | None, license_id: str | None) -> list[str]:
    """Make `out` a folder for the Hub of the pipeline `folder`; the names of its files.

    Weights are linked, not copied, where the file system can. `repo_id` is the name on the Hub that the card's snippet
    loads; without one it loads `out`. Raises UserError where `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").is_file():
        raise UserError(f"--out: {out} is there already and is no model; name another folder")
    with atomic_folder(out) as tmp_dir:
        link_files(folder, tmp_dir, iter_model_files(folder))
        image_names = _copy_images(folder, tmp_dir)
        (tmp_dir / "README.md").unlink(missing_ok=True)
        (tmp_dir / "README.md").write_text(
            render_model_card(folder, repo_id or str(out), license_id, image_names), encoding="utf-8"
        )
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _copy_images(folder: Path, out: Path) -> tuple[str, ...]:
    """Copy the report's pictures of this student."""
    image_paths = sorted(REPORT_IMAGES.glob(f"{folder.name}*.png"))
    for path in image_paths:
        shutil.copy2(path, out / path.name)
    return tuple(path.name for path in image_paths)


def push_to_hub(out: Path, repo_id: str, private: bool) -> str:
    """Upload a folder to the Hub as one commit; the commit's address. The token is the Hub's own login's.

    Raises UserError where that fails, with nothing of the token in it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=out, commit_message="Upload by prunella export"))
    except LocalTokenNotFoundError:
        raise UserError(f"the Hub asks who you are: {LOGIN_HINT}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise UserError(f"the Hub refused {repo_id} ({status}); may you write there? If not: {LOGIN_HINT}") from None
    except OSError as error:  # no network, or offline
        raise UserError(f"the Hub cannot be reached: {type(error).__name__}; {out} is ready, push it later") from None
