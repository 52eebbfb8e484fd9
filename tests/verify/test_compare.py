import json
from pathlib import Path

import pytest

from prunella.verify.compare import find_differences

OUTS = ["models/x", "reports/x.json", "reports/curves"]


@pytest.fixture
def sides(tmp_path) -> tuple[Path, Path]:
    """The same results twice, but for times and memory."""
    for name, seconds in (("old", 1.5), ("new", 2.5)):
        place = tmp_path / name
        for folder in ("models/x", "reports/curves/samples", f"work/distill/{name}"):
            (place / folder).mkdir(parents=True)
        (place / "models/x/weights").write_bytes(b"1")
        times = {"seconds": seconds, "unet_step_ms_p50": seconds, "speedup": {"value": seconds}}
        report = times | {"steps": 2, "heldout": {"output": 0.5}, "runtime": {"threads": seconds}}
        (place / "reports/x.json").write_text(json.dumps(report | {"peak_memory_mb": seconds, "nan": float("nan")}))
        (place / "reports/curves/train.csv").write_text(f"step,loss,seconds\n1,0.25,{seconds}\n")
        (place / "reports/curves/samples/0.png").write_text(name)
        row = {"step": 1, "split": "train", "loss": 0.25, "seconds": seconds}
        (place / f"work/distill/{name}/metrics.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path / "old", tmp_path / "new"


def test_times_memory_and_watched_pictures_are_no_difference(sides):
    assert find_differences(*sides, OUTS) == []


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("reports/x.json", "0.5", "0.75", "reports/x.json heldout.output: 0.5 → 0.75"),
        ("reports/curves/train.csv", "0.25", "0.5", "reports/curves/train.csv row 0.loss: 0.25 → 0.5"),
        ("work/distill/new/metrics.jsonl", "0.25", "0.5", "metrics.jsonl step 1 train/loss: 0.25 → 0.5"),
        ("work/distill/new/metrics.jsonl", '"step": 1', '"step": 2', "metrics.jsonl step 2 train/loss: absent → 0.25"),
        ("models/x/weights", "1", "12", "models/x/weights: other bytes (1 → 2)"),
    ],
)
def test_what_differs_is_named_with_both_values(sides, file, old, new, said):
    path = sides[1] / file
    path.write_text(path.read_text().replace(old, new))
    assert said in find_differences(*sides, OUTS)


def test_a_file_that_came_or_went_is_named(sides):
    (sides[1] / "models/x/more").write_text("")
    (sides[1] / "reports/x.json").unlink()
    assert find_differences(*sides, OUTS) == ["reports/x.json: there → absent", "models/x/more: absent → there"]
