"""The same pictures and captions in every layout that a source reads."""

import csv
import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from prunella.params import load_shipped_defaults

Row = tuple[str, bytes, str | list[str]]  # file name, content, caption


def folder(root: Path, rows: list[Row], **columns) -> Path:
    """With metadata.jsonl; `columns` are lists beside."""
    root.mkdir(parents=True)
    lines = []
    for i, (name, data, text) in enumerate(rows):
        (root / name).write_bytes(data)
        lines.append(json.dumps({"file_name": name, "text": text, **{key: each[i] for key, each in columns.items()}}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def listed(root: Path, rows: list[Row], **columns) -> Path:
    """With metadata.csv."""
    folder(root, rows, **columns)
    (root / "metadata.jsonl").unlink()
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption", *columns])
        writer.writerows([row[0], row[2], *(each[i] for each in columns.values())] for i, row in enumerate(rows))
    return root


def beside(root: Path, rows: list[Row]) -> Path:
    """With a text beside each picture."""
    root.mkdir(parents=True)
    for name, data, text in rows:
        (root / name).write_bytes(data)
        (root / name).with_suffix(".txt").write_text(text)
    return root


def parquet(root: Path, rows: list[Row], per_file: int = 5, **columns) -> Path:
    """Files of `per_file` rows, two in a row group, as `datasets` writes them."""
    root.mkdir(parents=True)
    names, data, texts = (list(column) for column in zip(*rows, strict=True))
    image = [{"bytes": content, "path": name} for name, content in zip(names, data, strict=True)]
    whole = pa.table({"image": image, "TEXT": texts, **columns})
    for number, start in enumerate(range(0, len(rows), per_file)):
        pq.write_table(whole.slice(start, per_file), root / f"train-{number:05d}.parquet", row_group_size=2)
    return root


def paths(root: Path, rows: list[Row], **columns) -> Path:
    """One file whose pictures lie beside it."""
    root.mkdir(parents=True)
    for name, data, _ in rows:
        (root / name).write_bytes(data)
    table = pa.table({"image_path": [row[0] for row in rows], "caption": [row[2] for row in rows], **columns})
    pq.write_table(table, root / "pairs.parquet")
    return root


def webdataset(root: Path, rows: list[Row], per_file: int = 5, **columns) -> Path:
    """Tars of `per_file` pictures each, as img2dataset writes them."""
    root.mkdir(parents=True)
    for number, start in enumerate(range(0, len(rows), per_file)):
        with tarfile.open(root / f"{number:05d}.tar", "w") as tar:
            for i in range(start, min(start + per_file, len(rows))):
                name, data, text = rows[i]
                said = {"caption": text, **{key: each[i] for key, each in columns.items()}}
                add(tar, f"{i:09d}{Path(name).suffix}", data)
                if isinstance(text, str):
                    add(tar, f"{i:09d}.txt", text.encode())
                add(tar, f"{i:09d}.json", json.dumps(said).encode())
    return root


def add(tar: tarfile.TarFile, name: str, data: bytes, **kinds) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in kinds.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


LAYOUTS = {
    "folder": (folder, "folder"),
    "csv": (listed, "folder"),
    "beside": (beside, "folder"),
    "parquet": (parquet, "parquet"),
    "paths": (paths, "parquet"),
    "webdataset": (webdataset, "webdataset"),
    "hub": (parquet, "hub"),
}


def settings(layout: str, path: Path) -> dict:
    """The filter's parameters for a layout at `path`."""
    source = LAYOUTS[layout][1]
    return {"source": source, "path": str(path)} | ({"id": str(path)} if source == "hub" else {})


# Limits of the filter that the toys' pictures pass.
LIMITS = load_shipped_defaults()["filter"] | {
    "samples": 100,
    "min_side": 16,
    "max_aspect": 2.0,
    "min_caption": 3,
    "max_caption": 20,
    "max_corrupt_fraction": 0.5,
}


def drawn(seed: int, size=(40, 30), kind="PNG", **options) -> bytes:
    """A picture of edges and areas, different for each seed."""
    picture, chance = Image.new("RGB", size, "white"), random.Random(seed)
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, r = chance.randrange(size[0]), chance.randrange(size[1]), chance.randrange(3, 15)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(chance.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
