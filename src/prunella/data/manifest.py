"""A pair: a picture and its caption, known by a line in a manifest; the pixels stay where they are.

A manifest is a folder with `pairs.jsonl`, one pair a line, and `source.json`, which says how to find the pixels (see
`prunella.data.sources`).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """`key` finds the pixels (a scene's number, a file name, a row); `sum` changes when they do ("" for scenes)."""

    key: str
    text: str | list[str]  # a list where the picture has several captions
    width: int
    height: int
    sum: str

    @property
    def captions(self) -> list[str]:
        return self.text if isinstance(self.text, list) else [self.text]


def write_sample_manifest(out: Path, source: dict, samples: Iterable[Sample]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "source.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    with (out / "pairs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)


def read_sample_manifest(path: Path) -> tuple[dict, list[Sample]]:
    source = json.loads((path / "source.json").read_text(encoding="utf-8"))
    with (path / "pairs.jsonl").open(encoding="utf-8") as lines:
        return source, [Sample(**json.loads(line)) for line in lines]


def batched(items: list, size: int) -> Iterator[list]:
    return (items[i : i + size] for i in range(0, len(items), size))
