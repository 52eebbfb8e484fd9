"""Any number of threads that read pictures gives the same bits."""

import hashlib
from pathlib import Path

import pytest
from faulty import note, noted, quiet

from prunella.data.filter import filter_dataset
from prunella.encoding.encode import encode_dataset
from prunella.params import read_params

FAULT, WORKERS = "1, 2, 3 or 7 workers", (1, 2, 3, 7)


def sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.faults
def test_workers_change_no_bit(tmp_path, monkeypatch):
    params = read_params(quiet()[0] / "params.yaml")
    given = []
    for workers in WORKERS:
        place = tmp_path / str(workers)
        monkeypatch.setenv("DVC_ROOT", str(place))
        filter_dataset(params.filter, params.seed, place / "filtered", workers)
        encode_dataset(
            params.encode, params.seed, Path(params.teacher.path), place / "filtered", place / "latents", "cpu", workers
        )
        given.append(sums(place / "filtered") | sums(place / "latents"))
    found = sorted({name for each in given[1:] for name in each if each[name] != given[0].get(name)})
    if not noted(FAULT, "filter, encode"):
        note(FAULT, "filter, encode", len(WORKERS), 0 if found else len(WORKERS), found)
    assert not found and len(given[0]) > 5
