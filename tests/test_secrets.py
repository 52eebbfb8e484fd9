"""The whole graph on the toy with secrets planted, and the search for them."""

import subprocess
from pathlib import Path

import inprocess
import pytest
from planted import ENVIRONMENT, WORD, leaks

from prunella.cli.main import main

HOLDERS = {".git/config", ".dvc/config.local"}  # where a user puts them


@pytest.mark.slow
def test_no_secret_is_in_what_the_graph_writes_or_prints(teacher, pictures, tmp_path, monkeypatch, capfd):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for words in (
        ["init", "--quiet"],
        ["remote", "add", "origin", f"https://ada:{WORD}@git.example/prunella.git"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(f"['remote \"store\"']\n    url = s3://{WORD}@bucket/p\n")
    inprocess.reproduced(tmp_path, teacher, pictures, "sd-tiny", monkeypatch)
    main(["export", "sd-tiny", "--to", "hub", "--out", "card"])
    main(["sync"])
    assert {"mlflow.db", "reports", "card", "work", "models"} <= {path.name for path in Path().iterdir()}
    assert (tmp_path / "card" / "README.md").is_file() and list(tmp_path.glob("work/distill/*/metrics.jsonl"))
    assert set(leaks(tmp_path)) == HOLDERS
    printed = capfd.readouterr()
    assert WORD not in printed.out + printed.err
