"""Pictures looked at in tasks: a run that ended in the middle goes on to the bytes of one in peace."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import layouts
import pytest
from conftest import ROOT
from killing import killed
from layouts import LIMITS, drawn

from prunella.data import image_checks
from prunella.data.criteria import ImageFacts
from prunella.data.filter import filter_dataset
from prunella.data.image_checks import CheckTask, read_check_results, write_check_results
from prunella.data.images import RejectedImage
from prunella.data.sources import describe_source, open_source
from prunella.data.task_files import has_result
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(image_checks, "IMAGES_PER_TASK", 4)


def asked(path, layout="folder", **changes) -> Filter:
    given = LIMITS | layouts.settings(layout, path) | {"near_duplicates": 3, "min_contrast": 1.0} | changes
    return validate_config(Filter, fill_section("filter", given), "filter")


def rows(count: int) -> list[layouts.Row]:
    """Every fifth is broken, every seventh a copy of the one before it."""
    data = [b"" if i % 5 == 4 else drawn(i - (i % 7 == 6)) for i in range(count)]
    return [(f"{i:02d}.png", data[i], f"caption {i}") for i in range(count)]


@pytest.fixture
def folder(tmp_path) -> Path:
    return layouts.folder(tmp_path / "pictures", rows(30))


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("work/filter/*/[0-9]-*.found"))


def count_looks(monkeypatch) -> list[str]:
    read: list[str] = []
    real = image_checks.raise_system_errors
    monkeypatch.setattr(image_checks, "raise_system_errors", lambda key: read.append(key) or real(key))
    return read


FOUND = [
    ImageFacts(640, 480, "ab" * 32, 0.1 + 0.2, (1 << 127) + 3),
    RejectedImage("empty file"),
    ImageFacts(1, 2, "cd" * 32, 1e-310, 0, 5.300000190734863),
    RejectedImage("animated", "animated"),
    ImageFacts(3, 4, "", 0.0, 0, float("nan")),
]


def test_what_was_found_is_read_as_it_was_written(tmp_path):
    task = CheckTask(2, 17, ["a", "b", "c", "d", "\u732b #1+2"])
    write_check_results(tmp_path, task, FOUND)
    assert [path.name for path in tmp_path.iterdir()] == ["2-00017.found"] and has_result(tmp_path, task)
    again = list(read_check_results(tmp_path, task))
    assert [repr(each) for each in again] == [repr(each) for each in FOUND]  # by digits: a NaN is not itself
    assert (again[3].criterion, again[1].criterion) == ("animated", "broken")


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"", lambda data: data.replace(b"640", b"641")])
def test_a_file_that_is_not_as_it_was_written_is_not_there(spoil, tmp_path):
    task = CheckTask(0, 1, list("abcde"))
    write_check_results(tmp_path, task, FOUND)
    path = tmp_path / "0-00001.found"
    path.write_bytes(spoil(path.read_bytes()))
    assert not has_result(tmp_path, task)


def test_a_file_of_other_keys_is_not_there(tmp_path):
    write_check_results(tmp_path, CheckTask(0, 1, list("abcde")), FOUND)
    assert not has_result(tmp_path, CheckTask(0, 1, list("abcdf"))) and not has_result(
        tmp_path, CheckTask(0, 2, list("abcde"))
    )


def test_kept_work_changes_nothing(folder, tmp_path):
    given = asked(folder, samples=20)
    plain = filter_dataset(given, 0, tmp_path / "plain")
    assert not files(tmp_path)
    assert filter_dataset(given, 0, tmp_path / "kept", resume=True) == plain
    assert (tmp_path / "kept" / "pairs.jsonl").read_bytes() == (tmp_path / "plain" / "pairs.jsonl").read_bytes()
    # 20 pictures of the first round, 4 a task; six of them fell and are replaced.
    assert files(tmp_path)[:5] == [f"0-0000{i}.found" for i in range(5)] and "1-00000.found" in files(tmp_path)


@pytest.mark.parametrize("layout", ["folder", "parquet", "webdataset", "hub"])
def test_an_interrupted_filter_goes_on(layout, tmp_path, monkeypatch, capsys):
    path = layouts.LAYOUTS[layout][0](tmp_path / "data", rows(30))
    given = asked(path, layout)
    plain = filter_dataset(given, 0, tmp_path / "plain")
    with killed(image_checks, "write_check_results", 4):
        filter_dataset(given, 0, tmp_path / "out", workers=1, resume=True)
    assert files(tmp_path) == [f"0-0000{i}.found" for i in range(3)] and not (tmp_path / "out").exists()
    read = count_looks(monkeypatch)
    assert filter_dataset(given, 0, tmp_path / "out", resume=True) == plain
    assert len(read) == 30 - 12
    assert "filter: 12 of 30 pictures were looked at before (" in capsys.readouterr().out
    for name in ("pairs.jsonl", "source.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert filter_dataset(given, 0, tmp_path / "out", resume=True) == plain and len(read) == 18  # a finished one too


SLOW = """
import sys, time
from pathlib import Path
from prunella.data import image_checks
from prunella.data.filter import filter_dataset
from prunella.params import Filter
image_checks.IMAGES_PER_TASK = 4
real = image_checks.perceptual_hash
image_checks.perceptual_hash = lambda picture: time.sleep(0.05) or real(picture)
filter_dataset(Filter.model_validate_json(sys.argv[1]), 0, Path(sys.argv[2]), workers=1, resume=True)
"""


def test_a_filter_that_is_killed_goes_on_to_the_same_bytes(folder, tmp_path, capsys):
    given = asked(folder)
    plain = filter_dataset(given, 0, tmp_path / "plain")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, given.model_dump_json(), str(tmp_path / "out")], stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while len(files(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(files(tmp_path)) < 8 and not (tmp_path / "out").exists()
    assert filter_dataset(given, 0, tmp_path / "out", resume=True) == plain
    assert "were looked at before" in capsys.readouterr().out
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == (tmp_path / "plain" / "pairs.jsonl").read_bytes()


def test_changed_pictures_and_parameters_are_looked_at_anew(folder, tmp_path, monkeypatch):
    given, read = asked(folder), count_looks(monkeypatch)
    filter_dataset(given, 0, tmp_path / "out", resume=True)
    filter_dataset(
        given, 1, tmp_path / "out", resume=True
    )  # all are taken whatever the seed is, but it might draw others
    assert len(read) == 60
    filter_dataset(given.model_copy(update={"min_contrast": 0.0}), 1, tmp_path / "out", resume=True)
    assert len(read) == 90
    data = (folder / "00.png").read_bytes()
    (folder / "00.png").write_bytes(data)  # the same, but who knows
    os.utime(folder / "00.png", ns=(0, 0))
    filter_dataset(given, 1, tmp_path / "out", resume=True)
    assert len(read) == 120 and len(list(tmp_path.glob("work/filter/*/identity.json"))) == 1  # finished ones are swept


def test_a_filter_that_many_broken_pictures_stopped_goes_on_with_a_higher_limit(folder, tmp_path, monkeypatch):
    read = count_looks(monkeypatch)
    with pytest.raises(UserError, match=r"6 of 30 pictures looked at in .*max_corrupt_fraction \(0.1\)"):
        filter_dataset(asked(folder, max_corrupt_fraction=0.1), 0, tmp_path / "out", resume=True)
    report, *_ = filter_dataset(asked(folder, max_corrupt_fraction=0.3), 0, tmp_path / "out", resume=True)
    assert len(read) == 30 and report["fell"]["broken"] == 6


def test_a_damaged_file_is_made_again(folder, tmp_path, monkeypatch):
    plain = filter_dataset(asked(folder), 0, tmp_path / "out", resume=True)
    path = next(tmp_path.glob("work/filter/*/0-00003.found"))
    path.write_bytes(path.read_bytes()[:100])
    read = count_looks(monkeypatch)
    assert filter_dataset(asked(folder), 0, tmp_path / "out", resume=True) == plain and len(read) == 4


def test_a_worker_of_a_cluster_leaves_the_files_that_this_machine_leaves(folder, tmp_path, params, monkeypatch):
    given = asked(folder, aesthetic={"min": 50.0, "model": "head.pt", "clip": "clip"})

    def score(pictures: list) -> list[float]:
        return [picture.getpixel((20, 15))[0] / 3 for picture in pictures]

    monkeypatch.setattr(image_checks, "load_aesthetic_scorer", lambda params, device: score)
    source, some = describe_source(given, 0), image_checks.split_into_tasks(1, [f"{i:02d}.png" for i in range(7)])
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    list(
        image_checks.check_images(
            some, image_checks.make_image_checker(open_source(source), given, score), 2, tmp_path / "here"
        )
    )
    worker = image_checks.CheckWorker(given, source, tmp_path / "there", params.runtime)
    for task in reversed(some):
        worker(task)
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there"))
    assert here == there and sorted(here) == ["1-00000.found", "1-00001.found"]


def test_another_aesthetic_model_is_another_filter(folder, tmp_path):
    for name in ("head", "clip"):
        (tmp_path / name).write_text("one")
    models = {"model": str(tmp_path / "head"), "clip": str(tmp_path / "clip")}
    given, source = asked(folder, aesthetic={"min": 5.0} | models), describe_source(asked(folder), 0)
    first = image_checks.make_checks_identity(given, 0, source)
    assert image_checks.make_checks_identity(given, 0, source) == first
    (tmp_path / "head").write_text("two")
    assert image_checks.make_checks_identity(given, 0, source).inputs != first.inputs


def test_a_listing_tells_names_sizes_and_times(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("one")
    (tmp_path / "a" / "d").symlink_to("nowhere")
    first, untimed = (image_checks.dataset_fingerprint(tmp_path / "a", timed) for timed in (True, False))
    shutil.copytree(tmp_path / "a", tmp_path / "copy", symlinks=True)
    os.utime(tmp_path / "copy" / "b" / "c", ns=(1, 1))
    assert (
        image_checks.dataset_fingerprint(tmp_path / "copy", False)
        == untimed
        != first
        != image_checks.dataset_fingerprint(tmp_path / "copy", True)
    )
    (tmp_path / "copy" / "b" / "c").write_text("three")
    assert image_checks.dataset_fingerprint(tmp_path / "copy", False) != untimed
    assert image_checks.dataset_fingerprint(tmp_path / "a" / "b" / "c", False) != image_checks.dataset_fingerprint(
        tmp_path / "copy" / "b" / "c", False
    )


def test_scenes_leave_no_work(tmp_path):
    scenes = {"source": "scenes", "path": str(ROOT / "data" / "scenes.yaml"), "max_caption": 400, "samples": 5}
    filter_dataset(
        validate_config(Filter, fill_section("filter", LIMITS | scenes), "filter"), 0, tmp_path / "out", resume=True
    )
    assert not (tmp_path / "work").exists()
