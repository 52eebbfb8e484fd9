import pytest
import torch

from prunella.training import checkpoint


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 10):
        checkpoint.save(tmp_path / "new", step, {"step": step, "w": torch.full((2,), step)})
    assert [path.name for path in sorted((tmp_path / "new").glob("*.pt"))] == ["step-000002.pt", "step-000010.pt"]
    assert len(list((tmp_path / "new").iterdir())) == 4
    assert checkpoint.load(tmp_path / "new")["w"].tolist() == [10, 10]
    assert checkpoint.newest_step(tmp_path / "new") == 10


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(None) is None
    assert checkpoint.newest_step(tmp_path / "absent") == 0


def test_a_broken_checkpoint_is_passed_over_with_a_warning(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"step": step})
    newest = tmp_path / "step-000002.pt"
    newest.write_bytes(newest.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"step-000002.pt: broken checkpoint"):
        assert checkpoint.load(tmp_path)["step"] == 1


def test_a_sum_is_taken_once_until_the_file_changes(tmp_path, monkeypatch):
    real, summed = checkpoint.sha256, []
    monkeypatch.setattr(checkpoint, "sha256", lambda path: summed.append(path.name) or real(path))
    checkpoint.save(tmp_path, 2, {"step": 2})
    assert [checkpoint.newest_step(tmp_path) for _ in range(3)] == [2, 2, 2] and checkpoint.load(tmp_path) == {
        "step": 2
    }
    assert summed == ["step-000002.tmp"]
    newest = tmp_path / "step-000002.pt"
    newest.write_bytes(bytes(reversed(newest.read_bytes())))  # rotten, and as long as before
    with pytest.warns(UserWarning, match="broken"):
        assert checkpoint.newest_step(tmp_path) == 0
    assert len(summed) == 2


def test_a_checkpoint_without_its_sum_is_half_written(tmp_path):
    checkpoint.save(tmp_path, 3, {"step": 3})
    (tmp_path / "step-000003.sha256").unlink()
    with pytest.warns(UserWarning, match="broken"):
        assert checkpoint.load(tmp_path) is None
