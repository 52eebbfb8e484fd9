import torch

from prunella.training import teacher_cache as rooms
from prunella.training.teacher_cache import Remembered, Said


def batch(value: float) -> dict[str, torch.Tensor]:
    return {"pairs": torch.tensor([3]), "latents": torch.full((1, 1), value)}


def said(value: float) -> Said:
    return Said(torch.full((1, 1), value), {"inner": torch.full((1, 2), value)})


def test_what_was_said_is_had_again_for_a_batch_that_is_the_same_in_all():
    remembered, sizes = Remembered(), 8 + 4 + 4 + 8
    first = remembered(batch(1.0), lambda: said(1.0))
    assert remembered(batch(1.0), lambda: said(2.0)) is first
    assert remembered(batch(2.0), lambda: said(2.0)).predicted.item() == 2.0
    longer = batch(1.0) | {"pooled": torch.zeros(1, 1)}
    assert remembered(longer, lambda: said(3.0)).predicted.item() == 3.0
    assert rooms.ROOM - remembered.left == 3 * sizes + 4


def test_without_room_it_is_said_anew(monkeypatch):
    monkeypatch.setattr(rooms, "ROOM", 8 + 4 + 4 + 8)
    remembered = Remembered()
    for value in (1.0, 2.0):
        assert remembered(batch(value), lambda value=value: said(value)).predicted.item() == value
    assert remembered(batch(1.0), lambda: said(5.0)).predicted.item() == 1.0
    assert remembered(batch(2.0), lambda: said(5.0)).predicted.item() == 5.0
