"""Pipeline folders on the Hugging Face Hub: resolved to a commit once, read from the local cache afterwards."""

from pathlib import Path

from prunella.errors import UserError

# No second copies: other formats, half-precision variants, whole-model files at the top.
MODEL_PATTERNS = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
CONFIG_PATTERNS = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model"]
IGNORE_PATTERNS = ["*.fp16.*", "*.non_ema.*", "*onnx*", "*openvino*", "*flax*", "vae_*/*"]
PICKLE_PATTERNS = ["*/*.bin"]


OFFLINE_HINTS = {
    "teacher.id": "teacher.source: folder, teacher.path: FOLDER",
    "teacher.config": "teacher.config: FOLDER, any pipeline folder of the same kind",
}
DEFAULT_OFFLINE_HINT = "id: null, model: FOLDER"


def hub_snapshot(
    repo_id: str, revision: str, patterns: list[str], local_files_only: bool = False, param_key: str = "teacher.id"
) -> Path:
    """A Hub repository's folder in the local cache, at `revision` (a branch, a tag, a commit); its name is the commit.

    Files that the cache lacks are downloaded unless `local_files_only`. Raises UserError, naming the parameter
    `param_key` that asked for it, where that fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=IGNORE_PATTERNS,
                local_files_only=local_files_only,
            )
        )
    except HFValidationError as error:
        raise UserError(
            f"{param_key}: {repo_id!r} is no Hub id such as 'owner/model': {_hub_error_line(error)}"
        ) from None
    except GatedRepoError:
        raise UserError(
            f"{param_key}: {repo_id} is gated: accept its terms on the Hub and log in (hf auth login)"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{param_key.rpartition('.')[0]}.revision: {repo_id} has no branch, tag or commit {revision!r}"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{param_key}: there is no {repo_id} on the Hub, or it is private and you are not logged in"
        ) from None
    except OSError as error:  # no network, HF_HUB_OFFLINE, nothing in the cache
        raise UserError(
            f"{param_key}: {repo_id} at {revision!r} is not in the local cache, and the Hub cannot be reached "
            f"({_hub_error_line(error)}). Offline, point at a folder: "
            f"{OFFLINE_HINTS.get(param_key, DEFAULT_OFFLINE_HINT)}"
        ) from None


def _hub_error_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
