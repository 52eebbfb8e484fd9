import torch

from prunella.training import teacher_cache as rooms
from prunella.training.teacher_cache import TeacherOutputCache, TeacherOutputs


def batch(value: float) -> dict[str, torch.Tensor]:
    return {"pairs": torch.tensor([3]), "latents": torch.full((1, 1), value)}


def said(value: float) -> TeacherOutputs:
    return TeacherOutputs(torch.full((1, 1), value), {"inner": torch.full((1, 2), value)})


def test_what_was_said_is_had_again_for_a_batch_that_is_the_same_in_all():
    remembered, sizes = TeacherOutputCache(), 8 + 4 + 4 + 8
    first = remembered(batch(1.0), lambda: said(1.0))
    assert remembered(batch(1.0), lambda: said(2.0)) is first
    assert remembered(batch(2.0), lambda: said(2.0)).prediction.item() == 2.0
    longer = batch(1.0) | {"pooled": torch.zeros(1, 1)}
    assert remembered(longer, lambda: said(3.0)).prediction.item() == 3.0
    assert rooms.MAX_BYTES - remembered.bytes_left == 3 * sizes + 4


def test_without_room_it_is_said_anew(monkeypatch):
    monkeypatch.setattr(rooms, "MAX_BYTES", 8 + 4 + 4 + 8)
    remembered = TeacherOutputCache()
    for value in (1.0, 2.0):
        assert remembered(batch(value), lambda value=value: said(value)).prediction.item() == value
    assert remembered(batch(1.0), lambda: said(5.0)).prediction.item() == 1.0
    assert remembered(batch(2.0), lambda: said(5.0)).prediction.item() == 5.0
