"""The filter on a Ray cluster of two nodes on this machine: the local engine's bytes, whoever is lost meanwhile."""

import os
import signal
import threading
import time
from pathlib import Path

import layouts
import pytest
from layouts import LIMITS, drawn
from raycluster import cluster, pids

from prunella.data import image_checks
from prunella.data.filter import filter_dataset
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray leaves files and sockets unclosed
SIDE = 700  # pixels; large enough that a task takes a while


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(image_checks, "IMAGES_PER_TASK", 5)
    with cluster(monkeypatch) as it:
        yield it


@pytest.fixture
def given(tmp_path) -> Filter:
    """Of 133 pictures 101 are asked for; every ninth is broken, so that some are replaced."""
    rows = [(f"{i:03d}.png", b"" if i % 9 == 8 else drawn(i, (SIDE, SIDE)), f"caption {i}") for i in range(133)]
    path = layouts.webdataset(tmp_path / "data", rows, per_file=20)
    changes = {"source": "webdataset", "path": str(path), "samples": 101, "near_duplicates": 2, "min_contrast": 1.0}
    return validate_config(Filter, fill_section("filter", LIMITS | changes), "filter")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_a_worker(root: Path, count: int, found: list[int]) -> threading.Thread:
    """A thread that kills a worker when so many tasks are done; how many there were then."""

    def watch() -> None:
        while (there := len(list(root.glob("work/filter/*/[0-9]-*.found")))) < count:
            time.sleep(0.002)
        os.kill(pids()[0], signal.SIGKILL)
        found.append(there)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_the_bytes_are_the_local_engines_with_a_worker_lost(params, given, tmp_path, two, capsys):
    plain = filter_dataset(given, 0, tmp_path / "local")
    assert plain[0]["kept"] == 101 and plain[0]["looked_at"] > 110  # 21 tasks, then replacements
    found: list[int] = []
    thread = kill_a_worker(tmp_path, 3, found)
    runtime = params.runtime.model_copy(update={"workers": 1})
    assert filter_dataset(given, 0, tmp_path / "ray", cluster=runtime) == plain
    thread.join(60)
    assert found and found[0] < 21
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert "its worker was lost" in capsys.readouterr().err


def test_too_many_broken_pictures_stop_it_in_the_middle(params, given, tmp_path, two, monkeypatch):
    monkeypatch.setattr("prunella.data.filter.MIN_IMAGES_BEFORE_STOP", 20)
    strict = given.model_copy(update={"max_corrupt_fraction": 0.03})
    with pytest.raises(UserError) as local:
        filter_dataset(strict, 0, tmp_path / "out")
    assert "pictures to look at" in str(local.value)
    with pytest.raises(UserError) as error:
        filter_dataset(strict, 0, tmp_path / "out", cluster=params.runtime)
    assert str(error.value) == str(local.value)
    assert len(list(tmp_path.glob("work/filter/*/[0-9]-*.found"))) < 21
