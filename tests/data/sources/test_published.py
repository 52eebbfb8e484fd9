"""Sets that can be had today, in small imitations: docs/data.md says which they are and where columns are described."""

import json
import tarfile
from pathlib import Path

import layouts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import drawn

from prunella.data.filter import filter_dataset, filter_urls
from prunella.params import Filter, load_shipped_defaults

URLS = [f"https://example.org/{i}.jpg" for i in range(4)]


def asked(path: Path, source: str = "webdataset", **changes) -> Filter:
    return Filter(**load_shipped_defaults()["filter"] | {"source": source, "path": str(path), "min_side": 8} | changes)


def kept(folder: Path, params: Filter) -> list[str]:
    filter_dataset(params, 0, folder / "filtered")
    lines = (folder / "filtered" / "pairs.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["text"] for line in lines)


def written(tar: Path, *members: tuple[str, bytes]) -> None:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as file:
        for name, data in members:
            layouts.add(file, name, data)


def test_bucketed_laion_aesthetics(tmp_path):
    """data-archetype/LAION_Aesthetics_512_bucketed_512: tars in a folder for each bucket, jpg, txt and json."""
    root = tmp_path / "set"
    about = {"image_mode": "reencode_jpeg", "jpeg": {"quality": 95}, "caption_variant": "long", "w": 24, "h": 16}
    for i, bucket in enumerate(("p32_b512_512x384", "p32_b512_384x512")):
        key, picture = f"{i}f3a", drawn(i, (24, 16), "JPEG")
        files = ((f"{key}.jpg", picture), (f"{key}.txt", f"caption {i}\n".encode()))
        written(root / "buckets" / bucket / "shard-000000.tar", *files, (f"{key}.json", json.dumps(about).encode()))
    (root / "manifest.json").write_text("{}")
    assert kept(tmp_path, asked(root)) == ["caption 0", "caption 1"]


def test_text_to_image_2m(tmp_path):
    """jackyhate/text-to-image-2M: tars of jpg and json, the caption in the JSON's `prompt`."""
    root = tmp_path / "set"
    for i, part in enumerate(("data_512_2M", "data_1024_10K")):
        said = json.dumps({"prompt": f"caption {i}"}).encode()
        written(root / part / "data_000000.tar", ("0.jpg", drawn(i, (16, 16), "JPEG")), ("0.json", said))
    assert kept(tmp_path, asked(root)) == ["caption 0", "caption 1"]
    assert kept(tmp_path, asked(root / "data_512_2M")) == ["caption 0"]


def test_images_and_several_captions_of_a_table(tmp_path):
    """As `datasets` stores pictures on the Hub, here with a list of captions each."""
    rows = [(f"{i}.png", drawn(i, (16, 16)), [f"short {i}", f"a long caption {i}"]) for i in range(3)]
    assert kept(tmp_path, asked(layouts.parquet(tmp_path / "set", rows), "parquet")) == [row[2] for row in rows]


# Tables of URLs: what `prunella download --params` fetches of them.
RELAION = {
    "URL": URLS, "TEXT": [f"caption {i}" for i in range(4)], "WIDTH": [512.0] * 4, "HEIGHT": [512.0] * 4,
    "LANGUAGE": ["en", "en", "de", "en"], "similarity": [0.3] * 4, "hash": [1, 2, 3, 4],
    "pwatermark": [0.1, 0.9, 0.1, 0.1], "punsafe": [0.1] * 4, "aesthetic": [8.0, 8.0, 8.0, 6.0],
}  # fmt: skip
PD12M = {
    "id": list("abcd"), "url": URLS, "s3_key": URLS, "caption": [f"caption {i}" for i in range(4)],
    "md5_hash": list("abcd"), "mime_type": ["image/jpeg"] * 4, "width": [900, 100, 900, 900],
    "height": [900] * 4, "license_type": ["https://creativecommons.org/publicdomain/zero/1.0/"] * 4,
}  # fmt: skip
COYO = {
    "id": [1, 2, 3, 4], "url": URLS, "text": [f"caption {i}" for i in range(4)], "width": [900] * 4,
    "height": [900] * 4, "clip_similarity_vitl14": [0.3, 0.1, 0.3, 0.3], "watermark_score": [0.1] * 4,
    "aesthetic_score_laion_v2": [6.0, 6.0, 6.0, 3.0],
}  # fmt: skip
COYO_COLUMNS = {"similarity": "clip_similarity_vitl14", "aesthetic": "aesthetic_score_laion_v2"}
SCORE = {"min": 5.0, "model": None, "clip": None}


@pytest.mark.parametrize(
    ("table", "changes", "left"),
    [
        (RELAION, {"aesthetic": SCORE | {"min": 7.5}, "max_pwatermark": 0.8, "languages": ["en"]}, URLS[:1]),
        (PD12M, {"min_side": 512}, [URLS[0], *URLS[2:]]),
        (COYO, {"columns": COYO_COLUMNS, "aesthetic": SCORE, "min_similarity": 0.2}, [URLS[0], URLS[2]]),
    ],
    ids=["laion/relaion-art", "Spawning/PD12M", "kakaobrain/coyo-700m"],
)
def test_tables_of_urls_are_judged_by_their_own_columns(table, changes, left, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    given = asked(tmp_path, **changes)
    assert filter_urls(given, tmp_path / "table.parquet", tmp_path / "short.parquet", {}) == (4, len(left))
    short = pq.read_table(tmp_path / "short.parquet")
    assert short.column(next(name for name in short.column_names if name.lower() == "url")).to_pylist() == left
