"""Encode on a Ray cluster of two nodes on this machine: the bytes of the local engine, whoever is lost meanwhile."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from motoserver import s3
from raycluster import cluster, pids

from prunella.encoding import shard_writer
from prunella.encoding.encode import encode_dataset
from prunella.encoding.shard_writer import write_shards_on_ray
from prunella.errors import UserError
from prunella.latents.shards import LatentDataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray leaves files and sockets unclosed


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with cluster(monkeypatch) as it:
        yield it


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shards(folder: Path) -> int:
    return len(list(folder.glob("work/encode/*/*-*.json")))


def harm(folder: Path, deeds: dict[int, object]) -> tuple[threading.Thread, list[int]]:
    """A thread that does each deed when so many shards are there; how many there were then."""
    found: list[int] = []

    def watch() -> None:
        for count, deed in deeds.items():
            while (there := shards(folder)) < count:
                time.sleep(0.002)
            found.append(there)
            deed()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread, found


def test_the_bytes_are_the_local_engines_with_a_worker_and_a_node_lost(
    params, teacher, manifest, tmp_path, two, capsys
):
    settings = params.encode.model_copy(update={"shard_size": 1, "batch_size": 1})
    given = settings, params.seed, teacher, manifest
    report = encode_dataset(*given, tmp_path / "local", "cpu")
    for path in tmp_path.glob("work/encode/*"):
        path.rename(tmp_path / path.name)
    deeds = {
        2: lambda: os.kill(pids()[0], signal.SIGKILL),
        10: lambda: two.remove_node(two.second, allow_graceful=False),
    }
    thread, found = harm(tmp_path, deeds)
    assert encode_dataset(*given, tmp_path / "ray", "cpu", cluster=params.runtime) == report
    thread.join(60)
    assert len(found) == 2 and max(found) < 29  # both were lost before the end
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert "its worker was lost" in capsys.readouterr().err


def test_shards_may_go_to_a_store_which_alone_is_shared(params, teacher, manifest, latents, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with s3(monkeypatch, tmp_path) as server, cluster(monkeypatch):  # workers have the keys from their machine
        server.put(tmp_path / "nothing", "shards")
        settings = params.encode.model_copy(update={"store": "s3://shards/toy"})
        given = settings, params.seed, teacher, manifest, tmp_path / "out", "cpu"
        encode_dataset(*given, cluster=params.runtime)
        home = LatentDataset(tmp_path / "out", "train").place
        assert {path.name: path.read_bytes() for path in home.rglob("*.safetensors")} == {
            name: data
            for name, data in content(latents).items()
            if name.startswith(("train", "held")) and name.endswith(".safetensors")
        }
        assert not list(tmp_path.glob("work/encode/*/*-*"))


def test_a_cluster_without_what_is_asked_for_is_named(params, teacher, manifest, tmp_path, two):
    spoilt = params.runtime.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match=r"no machine of the cluster has a GPU \(runtime.device\)"):
        encode_dataset(params.encode, params.seed, teacher, manifest, tmp_path / "out", "cpu", cluster=spoilt)


def test_a_work_folder_that_is_not_shared_is_named(params, monkeypatch, tmp_path):
    monkeypatch.setattr("prunella.compute.ray_executor.iter_ray_results", lambda begin, tasks, **_: iter(tasks))
    task = shard_writer.EncodeTask("train", 3, (32, 32), [])
    with pytest.raises(UserError, match=r"a worker has made train-00003, but it is not in .*share"):
        write_shards_on_ray(dict, [task], tmp_path, params.runtime)
