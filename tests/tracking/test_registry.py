"""Promotion into a real registry, and serving by `mlflow models serve`."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
import yaml
from commands import refused, said
from conftest import ROOT
from PIL import Image

from prunella.verify import dvc_lock


@pytest.fixture
def run(tmp_path, monkeypatch, pruned_tiny):
    """A folder with a distilled student and its figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(pruned_tiny, tmp_path / "models" / "distilled" / "sd-tiny")
    (tmp_path / "reports").mkdir()
    models = {"teacher": {"latency_ms_p50": 100.0}, "sd-tiny/distilled": {"latency_ms_p50": 64.0}}
    (tmp_path / "reports" / "benchmark.json").write_text(json.dumps({"models": models}))
    asking(tmp_path, 0.75)
    monkeypatch.setattr(dvc_lock, "run_dvc", lambda *_: "{}")  # all is as dvc.lock says
    return tmp_path


def asking(folder: Path, most: float) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    gate = {"metric": "latency_ms_p50", "min": None, "max": most, "relative_to_teacher": True}
    content["promote"] = {"alias": "champion", "gates": [gate]}
    content["benchmark"] |= {"num_inference_steps": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def test_a_student_that_misses_a_gate_is_not_registered(run, capsys):
    asking(run, 0.5)
    assert "sd-tiny (distilled) is not promoted: latency_ms_p50 missed" in refused("promote", "sd-tiny")
    assert "0.14 over" in capsys.readouterr().out
    assert not (run / "mlflow.db").exists()
    shutil.copytree(run / "models" / "distilled" / "sd-tiny", run / "elsewhere" / "distilled" / "sd-tiny")
    assert "has no figures of sd-tiny (distilled)" in refused("promote", "elsewhere/distilled/sd-tiny")
    assert "no benchmark" in ((run / "reports" / "benchmark.json").unlink() or refused("promote", "sd-tiny"))


def test_figures_of_other_weights_promote_nothing(run, monkeypatch):
    """tests/test_graph.py has it under DVC."""
    asked = []

    def dvc(root, *words):
        asked.extend(words)
        code = {"changed deps": {"src/prunella/models": "modified", "data/latents": "deleted"}}
        return json.dumps({"score@sd-tiny": [code, {"changed deps": {"models/distilled/sd-tiny": "modified"}}]})

    monkeypatch.setattr(dvc_lock, "run_dvc", dvc)
    said = refused("promote", "sd-tiny")
    assert "(models/distilled/sd-tiny: modified)" in said and "dvc repro" in said and not (run / "mlflow.db").exists()
    assert asked == ["status", "--json", "draw@sd-tiny", "score@sd-tiny", "cost", "benchmark"]


def test_anothers_model_is_looked_up_by_the_stages_that_measured_it(run, monkeypatch, capsys):
    shutil.copytree(run / "models" / "distilled" / "sd-tiny", run / "models" / "finetuned" / "theirs")
    models = {"teacher": {"latency_ms_p50": 100.0}, "theirs/finetuned": {"latency_ms_p50": 64.0}}
    (run / "reports" / "benchmark.json").write_text(json.dumps({"models": models}))
    content = yaml.safe_load((run / "params.yaml").read_text())
    content["finetune"] |= {
        "data": {"dog": {"filter": {}, "encode": {}}},
        "base": {"theirs": {"model": {"path": "theirs"}, "data": "dog"}},
    }
    (run / "params.yaml").write_text(yaml.safe_dump(content))
    asked = []
    monkeypatch.setattr(dvc_lock, "run_dvc", lambda root, *words: asked.extend(words) or "{}")
    assert "latency_ms_p50" in said(capsys, "promote", "theirs", "--dry-run")
    assert asked == ["status", "--json", "base_draw@theirs", "base_score@theirs", "cost", "benchmark"]


def asked(address: str, row: dict) -> tuple[int, dict]:
    body = json.dumps({"dataframe_records": [row]}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def wait(address: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).close()
            return
        except (URLError, OSError):
            assert process.poll() is None
            time.sleep(0.5)
    raise AssertionError("the server does not answer")


@pytest.mark.slow
def test_a_champion_is_served_to_ten_clients_at_once(run, capsys):
    text = said(capsys, "promote", "sd-tiny")
    assert "models:/sd-tiny@champion" in text
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{run}/mlflow.db"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/sd-tiny@champion"]
    with (run / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait(address, process)
        status, answer = asked(address, {"prompt": "a ring", "seed": 3})
        assert status == 200
        png = base64.b64decode(answer["predictions"][0]["png"])
        with Image.open(io.BytesIO(png)) as picture:
            assert (picture.format, picture.size) == ("PNG", (32, 32))
        assert asked(address, {"prompt": "a ring", "seed": 3})[1] == answer
        for wrong, name in (({"steps": 0}, "steps"), ({"size": 33}, "size"), ({"guidance": 99.0}, "guidance")):
            status, answer = asked(address, {"prompt": "a ring", **wrong})
            assert status == 400 and name in answer["message"]
        assert asked(address, {"seed": 1})[0] == 400

        def one(i: int) -> float:
            began = time.monotonic()
            assert asked(address, {"prompt": "a ring", "seed": i})[0] == 200
            return time.monotonic() - began

        with ThreadPoolExecutor(10) as clients:
            seconds = sorted(clients.map(one, range(40)))
        print(f"ten clients, 40 pictures: p50 {seconds[20]:.2f} s, p95 {seconds[37]:.2f} s")
    finally:
        process.terminate()
        process.wait(60)
