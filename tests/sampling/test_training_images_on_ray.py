"""Generate on a Ray cluster of two nodes on this machine: the bytes of the local engine, a worker lost meanwhile."""

import os
import signal
import threading
import time

import pytest
from conftest import SIDE
from raycluster import cluster, pids

from prunella.params import Generate
from prunella.sampling import image_shards
from prunella.sampling.training_images import generate_images

ASKED = Generate(
    prompts="p.txt", samples=99, images_per_prompt=3, model="m", id=None, revision="main", negative_prompt="",
    guidance_scale=3.0,
    scheduler=None, num_inference_steps=9, sizes=[(SIDE, SIDE)], batch_size=1, precision="fp32", storage="fp32", seed=5,
    store=None,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves files and sockets unclosed
def test_the_bytes_are_the_local_engines_with_a_worker_lost(teacher, params, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_shards, "IMAGES_PER_SHARD", 2)
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(f"prompt {i}" for i in range(7)))
    content = {}
    for name in ("local", "ray"):
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))
        given = ASKED, "set", prompts, teacher, tmp_path / name / "out", "cpu"
        if name == "ray":
            with cluster(monkeypatch):
                killer = threading.Thread(target=kill_a_worker, args=[tmp_path / "ray" / "work"], daemon=True)
                killer.start()
                report = generate_images(*given, cluster=params.runtime)
                killer.join(1)
                away = ASKED.model_copy(update={"store": str(tmp_path / "store")})
                generate_images(away, "away", *given[2:4], tmp_path / "away", "cpu", cluster=params.runtime)
        else:
            report = generate_images(*given)
        assert report["pictures"] == 21
        content[name] = {path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()}
    assert len(content["ray"]) == 11 + 2 and content["ray"] == content["local"]
    assert "its worker was lost" in capsys.readouterr().err
    on_store = {path.name: path.read_bytes() for path in (tmp_path / "store").rglob("*.tar")}
    assert on_store == {name: data for name, data in content["ray"].items() if name.endswith(".tar")}
    assert sorted(path.name for path in (tmp_path / "away").iterdir()) == ["manifest.json", "prompts.jsonl"]


def kill_a_worker(work) -> None:
    """Once two shards are there."""
    while len(list(work.glob("generate-set/*/*.tar"))) < 2:
        time.sleep(0.002)
    os.kill(pids()[0], signal.SIGKILL)
