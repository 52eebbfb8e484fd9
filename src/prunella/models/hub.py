"""Pipeline folders on the Hugging Face Hub: resolved to a commit once, read from the local cache afterwards."""

from pathlib import Path

from prunella.errors import UserError

# No second copies: other formats, half-precision variants, whole-model files at the top.
MODEL = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
CONFIGS = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model"]
NOT = ["*.fp16.*", "*.non_ema.*", "*onnx*", "*openvino*", "*flax*", "vae_*/*"]
PICKLED = ["*/*.bin"]


INSTEAD = {
    "teacher.id": "teacher.source: folder, teacher.path: FOLDER",
    "teacher.config": "teacher.config: FOLDER, any pipeline folder of the same kind",
}
OTHERWISE = "id: null, model: FOLDER"


def snapshot(name: str, revision: str, patterns: list[str], cached: bool = False, key: str = "teacher.id") -> Path:
    """A Hub repository's folder in the local cache, at `revision` (a branch, a tag, a commit); its name is the commit.

    Files that the cache lacks are downloaded unless `cached`. Raises UserError, naming the parameter `key` that asked
    for it, where that fails.
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
                name, revision=revision, allow_patterns=patterns, ignore_patterns=NOT, local_files_only=cached
            )
        )
    except HFValidationError as error:
        raise UserError(f"{key}: {name!r} is no Hub id such as 'owner/model': {_line(error)}") from None
    except GatedRepoError:
        raise UserError(f"{key}: {name} is gated: accept its terms on the Hub and log in (hf auth login)") from None
    except RevisionNotFoundError:
        raise UserError(
            f"{key.rpartition('.')[0]}.revision: {name} has no branch, tag or commit {revision!r}"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"{key}: there is no {name} on the Hub, or it is private and you are not logged in") from None
    except OSError as error:  # no network, HF_HUB_OFFLINE, nothing in the cache
        raise UserError(
            f"{key}: {name} at {revision!r} is not in the local cache, and the Hub cannot be reached "
            f"({_line(error)}). Offline, point at a folder: {INSTEAD.get(key, OTHERWISE)}"
        ) from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
