"""What figures, stages and curves are called in reports: one word for each thing (`labels.yaml`)."""

from functools import cache
from pathlib import Path
from typing import Any

from prunella.storage.files import read_yaml

FILE = Path(__file__).with_suffix(".yaml")


@cache
def words() -> dict[str, dict[str, Any]]:
    """Everything in `labels.yaml`, by section."""
    return read_yaml(FILE)


def title(figure: str) -> str:
    """What a figure of benchmark.json is called; one that is not known by its own name."""
    return words()["figures"].get(figure, {}).get("title", figure.replace("_", " "))


def about(figure: str) -> str | None:
    """What a figure is; None where it is not known."""
    return words()["figures"].get(figure, {}).get("about")


def parts(figure: str) -> str:
    """What a figure's parts are, of which it is said "by" what."""
    return words()["figures"].get(figure, {}).get("parts", "part")


def better(figure: str) -> str | None:
    """ "higher" or "lower"; None where it is not known which is better."""
    return words()["figures"].get(figure, {}).get("better")


def logarithmic(figure: str) -> bool:
    """Whether the figure is shown on a logarithmic axis."""
    return words()["figures"].get(figure, {}).get("log", False)


def stage(name: str) -> str:
    """What a stage of a student is called: "finetuned" is "fine-tuned"."""
    return words()["stages"].get(name, name)


def training(name: str) -> str:
    """What a training is called: "finetune" is "fine-tuning"."""
    return words()["trainings"].get(name, name)


def begun(text: str) -> str:
    """The text with a capital where it begins, and none of its others lost."""
    return text[:1].upper() + text[1:]


def some(name: str) -> str:
    """What some of the pairs are called, over which a difference is measured: "on_rest" is "on the other captions"."""
    return words()["some"].get(name, name.replace("_", " "))


def model(name: str) -> str:
    """What a model of benchmark.json is called: "sd-tiny/finetuned" is "sd-tiny, fine-tuned"."""
    student, _, step = name.partition("/")
    return f"{student}, {stage(step)}" if step else student


def curve(column: str) -> str:
    """What a column of a training's curves is called: "feature/mid_block" is "features of mid_block"."""
    kind, _, block = column.partition("/")
    return f"features of {block}" if kind == "feature" and block else words()["curves"].get(column, column)
