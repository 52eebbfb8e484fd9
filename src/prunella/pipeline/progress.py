"""The position of a stage among those of dvc.yaml, in the order in which `dvc repro` runs them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunella.pipeline.input_guard import (
    DVC_YAML_FILE,
    StageSpec,
    list_stage_addresses,
    load_yaml_or_none,
    parse_stage_spec,
)


def format_stage_position(address: str, params: Any, dvc_yaml: Path = DVC_YAML_FILE) -> str:
    """ "stage 16 of 25"; "" where dvc.yaml cannot be understood or does not have the stage.

    Counted are all stages but the frozen ones, also those that DVC will skip: which those are, only DVC knows.
    """
    try:
        order = sort_stages(load_yaml_or_none(dvc_yaml)["stages"], params)
    except (LookupError, TypeError, ValueError, AttributeError):
        return ""
    return f"stage {order.index(address) + 1} of {len(order)}" if address in order else ""


def sort_stages(stages: dict[str, Any], params: Any) -> list[str]:
    """The addresses of all stages in DVC's order: each after those that make what it reads, these as it names them."""
    specs = {address: parse_stage_spec(stages, address, params) for address in list_stage_addresses(stages, params)}
    producers = [(Path(out).parts, address) for address, spec in specs.items() for out in spec.all_outs]
    visited: dict[str, None] = {}

    def visit(address: str) -> None:
        if address not in visited:
            for producer in _find_producers(specs[address], producers):
                visit(producer)
            visited[address] = None

    for address in specs:
        visit(address)
    return [address for address in visited if not stages[address.partition("@")[0]].get("frozen")]


def _find_producers(consumer: StageSpec, producers: list[tuple[tuple[str, ...], str]]) -> Iterator[str]:
    """The stages that make something of what a stage reads, within it or around it."""
    for dep in consumer.deps:
        parts = Path(dep).parts
        for out, address in producers:
            if out[: len(parts)] == parts or parts[: len(out)] == out:
                yield address
