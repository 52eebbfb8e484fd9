"""A Ray cluster of two nodes on this machine, with room for a worker each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from conftest import ROOT

HERE = f"{ROOT / 'src'}:{ROOT / 'tests'}:{ROOT / 'tests' / 'support'}"


@contextmanager
def cluster(monkeypatch) -> Iterator:
    """The cluster, at $RAY_ADDRESS; `second` is the node that may be removed."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install 'prunella[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 starves workers beside anything else
    monkeypatch.setenv("PYTHONPATH", HERE)  # tests' own modules, for workers
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    it = utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        it.second = it.add_node(num_cpus=1, object_store_memory=80_000_000)
        monkeypatch.setenv("RAY_ADDRESS", it.address)
        yield it
    finally:
        it.shutdown()


def pids() -> list[int]:
    """Of the workers that run now, below this process."""
    found = []
    for each in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if each.name().startswith("ray::RayWorker") or "ray::RayWorker" in " ".join(each.cmdline()):
                found.append(each.pid)
        except psutil.Error:
            continue
    return found
