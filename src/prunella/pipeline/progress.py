"""Where a stage stands among those of dvc.yaml, in the order in which `dvc repro` runs them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunella.pipeline.input_guard import GRAPH, Entry, addresses, entry, yaml_or_none


def place(address: str, params: Any, graph: Path = GRAPH) -> str:
    """ "stage 16 of 25"; "" where dvc.yaml cannot be understood or does not have the stage.

    Counted are all stages but the frozen ones, also those that DVC will skip: which those are, only DVC knows.
    """
    try:
        order = ordered(yaml_or_none(graph)["stages"], params)
    except (LookupError, TypeError, ValueError, AttributeError):
        return ""
    return f"stage {order.index(address) + 1} of {len(order)}" if address in order else ""


def ordered(stages: dict[str, Any], params: Any) -> list[str]:
    """The addresses of all stages in DVC's order: each after those that make what it reads, these as it names them."""
    entries = {address: entry(stages, address, params) for address in addresses(stages, params)}
    makers = [(Path(out).parts, address) for address, each in entries.items() for out in each.made]
    done: dict[str, None] = {}

    def visit(address: str) -> None:
        if address not in done:
            for before in _makers(entries[address], makers):
                visit(before)
            done[address] = None

    for address in entries:
        visit(address)
    return [address for address in done if not stages[address.partition("@")[0]].get("frozen")]


def _makers(reader: Entry, makers: list[tuple[tuple[str, ...], str]]) -> Iterator[str]:
    """The stages that make something of what a stage reads, within it or around it."""
    for dep in reader.deps:
        parts = Path(dep).parts
        for out, address in makers:
            if out[: len(parts)] == parts or parts[: len(out)] == out:
                yield address
