import torch
from torch import nn

from prunella.training.validate import evaluate_loss


def test_means_are_over_pairs_not_over_batches():
    batches = [{"latents": torch.full((3, 1), 1.0)}, {"latents": torch.full((1, 1), 5.0)}]

    def loss(model, batch):
        return {"mean": batch["latents"].mean(), "twice": 2 * batch["latents"].mean()}

    assert evaluate_loss(nn.Linear(1, 1), loss, batches) == {"mean": 2.0, "twice": 4.0}


def test_without_batches_nothing_is_measured():
    assert evaluate_loss(nn.Linear(1, 1), lambda *_: {"mean": torch.ones(())}, []) == {}
