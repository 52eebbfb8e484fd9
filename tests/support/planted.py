"""Secrets that a test plants in the environment, and the search for them in whatever was written."""

from pathlib import Path

WORD = "PLANTED"  # in every one of them, and nowhere else
ENVIRONMENT = {
    "HF_TOKEN": f"hf_{WORD}token",
    "AWS_ACCESS_KEY_ID": f"AKIA{WORD}0",
    "AWS_SECRET_ACCESS_KEY": f"{WORD}/aws+secret",
    "AWS_SESSION_TOKEN": f"{WORD}==session",
    "MLFLOW_TRACKING_PASSWORD": f"{WORD}-mlflow",
    "AZURE_STORAGE_CONNECTION_SECRET": f"AccountKey={WORD}",
    "WANDB_API_KEY": f"{WORD}-wandb",
}
ADDRESS = f"https://ada:{WORD}@data.example/set?page=2&token={WORD}#top"
SHOWN = "https://…@data.example/set?page=2&token=…"  # what of it may be seen


def leaks(folder: Path) -> list[str]:
    """The files in `folder` that hold a planted secret, in their name or content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [path for path in files if WORD in path.name or WORD.encode() in path.read_bytes()]
    return [path.relative_to(folder).as_posix() for path in found]
