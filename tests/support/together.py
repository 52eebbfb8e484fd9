"""Run by torch's launcher in test_distributed.py: each process trains its share; the first writes what it saw."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from prunella.compute.launch import size
from prunella.params import Training
from prunella.training.loop import train


def settings(content: dict) -> Training:
    return Training(**content)


def trained(content: dict, processes: int) -> dict:
    """The rows and the weight of a small model that learns from batches shared by `processes`."""
    chosen = settings(content)
    share = chosen.batch_size // processes

    def batches(number: int) -> dict:
        rows = [torch.randn(3, generator=torch.Generator().manual_seed(number * share + i)) for i in range(share)]
        x = torch.stack(rows)
        return {"x": x, "y": x.sum(1, keepdim=True)}

    def loss(model, batch) -> dict:
        square = (model(batch["x"]) - batch["y"]).pow(2).mean()
        return {"loss": 2 * square, "square": square}

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 1))
    rows = [row for _, known in train(model, loss, batches, chosen) for row in known]
    return {"rows": rows, "weight": model[0].weight.tolist()}


if __name__ == "__main__":
    content, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    result = trained(content, size())
    (out / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(result))
