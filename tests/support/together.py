"""Run by torch's launcher in test_distributed.py: each process trains and measures its share, and writes the result."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from prunella.compute.distributed import all_gather_ordered, shard_for_rank
from prunella.compute.launch import world_size
from prunella.params import Training
from prunella.training.loop import train
from prunella.training.validate import evaluate_loss


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


def measured(sizes: tuple[int, ...] = (3, 3, 3, 3, 1)) -> dict:
    """The mean of a term over batches of these sizes, and what is gathered of their numbers."""
    source = torch.Generator().manual_seed(1)
    batches = [{"latents": torch.randn(n, 2, generator=source)} for n in sizes]
    values = evaluate_loss(
        nn.Linear(1, 1), lambda _, batch: {"term": batch["latents"].exp().mean()}, shard_for_rank(batches), "fp32", True
    )
    return {"values": values, "order": all_gather_ordered(list(shard_for_rank(range(len(sizes)))))}


if __name__ == "__main__":
    content, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    result = trained(content, world_size()) | {"measured": measured()}
    (out / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(result))
