"""Titles of figures, stages and curves in reports: one word for each thing (`labels.yaml`)."""

from functools import cache
from pathlib import Path
from typing import Any

from prunella.storage.files import read_yaml

LABELS_FILE = Path(__file__).with_suffix(".yaml")


@cache
def read_labels() -> dict[str, dict[str, Any]]:
    """Everything in `labels.yaml`, by section."""
    return read_yaml(LABELS_FILE)


def label_metric(metric: str) -> str:
    """The title of a figure of benchmark.json; one that is not known by its own name."""
    return read_labels()["figures"].get(metric, {}).get("title", metric.replace("_", " "))


def describe_metric(metric: str) -> str | None:
    """The description of a figure; None where it is not known."""
    return read_labels()["figures"].get(metric, {}).get("about")


def label_breakdown(metric: str) -> str:
    """The parts of a figure, of which it is said "by" what."""
    return read_labels()["figures"].get(metric, {}).get("parts", "part")


def get_better_direction(metric: str) -> str | None:
    """ "higher" or "lower"; None where it is not known which is better."""
    return read_labels()["figures"].get(metric, {}).get("better")


def has_log_scale(metric: str) -> bool:
    """Whether the figure is shown on a logarithmic axis."""
    return read_labels()["figures"].get(metric, {}).get("log", False)


def label_stage(name: str) -> str:
    """The title of a stage of a student: "finetuned" is "fine-tuned"."""
    return read_labels()["stages"].get(name, name)


def label_training(name: str) -> str:
    """The title of a training: "finetune" is "fine-tuning"."""
    return read_labels()["trainings"].get(name, name)


def capitalize_first(text: str) -> str:
    """The text with a capital where it begins, and none of its others lost."""
    return text[:1].upper() + text[1:]


def label_subset(name: str) -> str:
    """The title of a subset of the pairs, over which a difference is measured: "on_rest" is "on the other captions"."""
    return read_labels()["some"].get(name, name.replace("_", " "))


def label_model(name: str) -> str:
    """The title of a model of benchmark.json: "sd-tiny/finetuned" is "sd-tiny, fine-tuned"."""
    student, _, step = name.partition("/")
    return f"{student}, {label_stage(step)}" if step else student


def label_curve(column: str) -> str:
    """The title of a column of a training's curves: "feature/mid_block" is "features of mid_block"."""
    kind, _, block = column.partition("/")
    return f"features of {block}" if kind == "feature" and block else read_labels()["curves"].get(column, column)
