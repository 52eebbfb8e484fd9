"""Stores of MLflow's that tests may fill."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty(tmp_path_factory) -> Path:
    """A store's file, whose creation takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def local(bare, empty):
    """A store of the test's own, as a stage in $DVC_ROOT would use."""
    shutil.copy(empty, bare)
    return bare


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """The same before it is made."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path
