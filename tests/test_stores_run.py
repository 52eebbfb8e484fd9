"""Pairs and shards on S3 (moto's server): filter, a killed encoding and a distillation end at the bits of folders."""

import os
import subprocess
import sys
from pathlib import Path

import layouts
import pytest
import torch
import yaml
from conftest import toy_params
from layouts import drawn
from motoserver import s3

import prunella
from prunella.latents.shards import LatentDataset
from prunella.params import Params, read_params

ROWS = [(f"{i:02d}.png", drawn(i), f"a red thing {i}") for i in range(29)]
KILLED = """
import os
import sys
import prunella
from prunella.encoding import shard_writer
from prunella.params import read_params
upload_shard = shard_writer.upload_shard
def dies(work, remote_dir, name):
    if name == "train-00002":
        os._exit(9)
    upload_shard(work, remote_dir, name)
shard_writer.upload_shard = dies
prunella.encode(read_params(sys.argv[1]), teacher=sys.argv[2], out="data")
"""


def asked(teacher: Path, pictures: Path, folder: Path, tars: str, store: str | None) -> Params:
    content = toy_params(teacher, pictures)
    content["filter"] |= {"source": "webdataset", "path": tars}
    content["encode"] |= {"shard_size": 4, "store": store}
    content["distill"] |= {"steps": 7, "evaluate_every": 7, "shuffle_shards": 1}
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return read_params(folder / "params.yaml")


def distilled(params: Params, teacher: Path, student: Path, folder: Path, monkeypatch) -> dict[str, bytes]:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    latents = prunella.encode(params, teacher=teacher, out="data")
    prunella.distill(params, teacher=teacher, latents=latents, student=student, out="distilled")
    unet = folder / "distilled" / "unet"
    return {path.name: path.read_bytes() for path in unet.iterdir()}


@pytest.mark.slow
def test_on_s3_and_killed_it_ends_at_the_bits_of_folders_here(teacher, pictures, pruned_tiny, tmp_path, monkeypatch):
    tars = layouts.webdataset(tmp_path / "tars", ROWS, per_file=10)
    here = asked(teacher, pictures, tmp_path / "here", str(tars), None)
    expected = distilled(here, teacher, pruned_tiny, tmp_path / "here", monkeypatch)
    with s3(monkeypatch, tmp_path) as server:
        far = asked(teacher, pictures, tmp_path / "far", server.put(tars, "pairs/some"), "s3://pairs/shards")
        command = [sys.executable, "-c", KILLED, "params.yaml", str(teacher)]
        # With the threads of this process, since the last bits of what encoders give depend on how many there are.
        threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        assert subprocess.run(command, cwd=tmp_path / "far", env=threads, check=False).returncode == 9
        server.forget()
        assert distilled(far, teacher, pruned_tiny, tmp_path / "far", monkeypatch) == expected
        train = LatentDataset(tmp_path / "far" / "data" / "latents", "train")
        assert str(train.place).startswith("s3://pairs/shards/") and len(train.shards) == 6
        asked_of = server.asked()
        # Four shards are left to make, of three files each; what was noted before is not written again.
        assert asked_of["PUT"] == 4 * 3 and asked_of["POST"] == 0
        assert not list((tmp_path / "far" / "work").rglob("*-*.safetensors"))
