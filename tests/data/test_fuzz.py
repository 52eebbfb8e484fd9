"""Hostile files: whatever bytes a reader is given, it gives pairs, counts them as broken, or raises a UserError.

Each reader goes through the whole filter; `fuzzing` says how many inputs there are, and holds them to their bounds.
"""

import io
import json
import tarfile
from pathlib import Path

import layouts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import FUZZ, MARKS, Watched, mostly, spoilt, watched
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunella.data.criteria import CRITERIA
from prunella.data.filter import filter_dataset
from prunella.data.images import RejectedImage, decode_image, measure_contrast, perceptual_hash
from prunella.data.manifest import read_sample_manifest
from prunella.params import Filter, fill_section, validate_config

pytestmark = MARKS
__all__ = ["watched"]  # a fixture


def encoded(kind: str, mode: str = "RGB", size=(23, 17), **options) -> bytes:
    file = io.BytesIO()
    picture = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20)
    (picture if mode == "I;16" else picture.convert("RGB")).convert(mode).save(file, kind, **options)
    return file.getvalue()


PICTURES = [
    encoded("JPEG"),
    encoded("JPEG", progressive=True),
    encoded("JPEG", "CMYK"),
    encoded("PNG"),
    encoded("PNG", "RGBA"),
    encoded("PNG", "I;16"),
    encoded("PNG", "P"),
    encoded("GIF", "P"),
    encoded("BMP"),
    encoded("WEBP"),
    encoded("WEBP", "RGBA", lossless=True),
    *(encoded("TIFF", compression=each) for each in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
]


@FUZZ
@given(mostly(spoilt(PICTURES), st.binary(max_size=300)))
def test_pictures(watched, data):
    with watched():
        try:
            picture = decode_image(data)
        except RejectedImage as rejected:
            assert rejected.criterion in CRITERIA
            raise
        assert picture.mode == "RGB" and min(picture.size) > 0
        assert 0 <= perceptual_hash(picture) < 1 << 128 and 0 <= measure_contrast(picture) <= 128


def passed(watched: Watched, root: Path, source: str, scored: bool) -> None:
    """The whole filter on what lies at `root`, held to what it promises; `scored` asks for columns too."""
    limits = {
        "samples": 5,
        "min_side": 1,
        "max_aspect": 100,
        "min_caption": 1,
        "max_caption": 100,
        "max_corrupt_fraction": 1.0,
    }
    limits |= {"near_duplicates": 3, "blocked_words": ["bad"]}
    limits |= {"languages": ["en", "de"], "max_punsafe": 0.5} if scored else {}
    params = validate_config(Filter, fill_section("filter", limits | {"source": source, "path": str(root)}), "filter")
    with watched():
        report, *_ = filter_dataset(params, 0, root.parent / "out", 1)
        pairs = read_sample_manifest(root.parent / "out")[1]
        assert report["kept"] == len(pairs) > 0
        assert report["read"] == report["passed"] + sum(report["fell"].values())
        assert all(0 < len(caption) <= 100 for pair in pairs for caption in pair.captions)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "data"
    path.mkdir()
    for name, data in (("a.png", encoded("PNG")), ("b.jpg", encoded("JPEG")), ("c.png", encoded("PNG", size=(9, 9)))):
        (path / name).write_bytes(data)
    return path


ROWS = [
    b'{"file_name": "a.png", "text": "a caption", "language": "en", "punsafe": 0.1, "width": 23, "height": 17}',
    b'{"file_name": "b.jpg", "text": ["one", "two"], "language": "DE", "punsafe": "0.2"}',
    b'{"file_name": "c.png", "text": "\\ud83d \\u0000 caf\xc3\xa9", "language": null, "punsafe": 1e999}',
    b'{"file_name": "../a.png", "text": {"a": [1, 2]}, "language": ["en"], "punsafe": NaN}',
]
CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a.png", "en"])
VALUES = st.recursive(
    CELLS, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=4), each, max_size=3)
)
NAMES = ["file_name", "text", "caption", "language", "punsafe", "width", "height", "image", "Text"]
TABLE = b'file_name,text,language,punsafe\na.png,a caption,en,0.1\nb.jpg,"b, and\nc",de,\nc.png,\xe9,en,x\n'


@st.composite
def listings(draw) -> tuple[str, bytes]:
    """A name and content of a listing."""
    if draw(st.booleans()):
        return "metadata.csv", draw(spoilt([TABLE]) | st.binary(max_size=200))
    made = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), VALUES, max_size=6).map(
        lambda row: json.dumps(row).encode()
    )
    deep = st.integers(1, 30_000).map(lambda count: b"[" * count)
    lines = draw(st.lists(st.sampled_from(ROWS) | spoilt(ROWS) | made | deep | st.binary(max_size=50), max_size=8))
    return "metadata.jsonl", b"\n".join(lines)


@FUZZ
@given(listings(), st.booleans())
def test_listings(watched, root, listing, scored):
    for name in ("metadata.jsonl", "metadata.csv"):
        (root / name).unlink(missing_ok=True)
    (root / listing[0]).write_bytes(listing[1])
    passed(watched, root, "folder", scored)


def tarred(form: int, **options) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, **options) as tar:
        for name, data in (
            ("1.png", encoded("PNG")),
            ("1.txt", b"a caption"),
            ("1.json", b'{"language": "en", "punsafe": 0.1}'),
            ("long" * 40 + "/2.jpg", encoded("JPEG")),
            ("long" * 40 + "/2.json", b'{"caption": ["one", "two"], "language": "de", "punsafe": 0}'),
        ):
            layouts.add(tar, name, data)
    return file.getvalue()


TARS = [tarred(tarfile.GNU_FORMAT), tarred(tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 600})]


@st.composite
def tars(draw) -> bytes:
    """Spoilt tars whose headers mostly have right sums, so that the reader believes them."""
    data = bytearray(draw(spoilt(TARS, 512)))
    for start in range(0, len(data) - 511, 512):
        header = data[start : start + 512]
        if header[257:262] == b"ustar" and draw(st.integers(0, 9)):
            if not draw(st.integers(0, 5)):
                header[156:157] = draw(st.sampled_from([b"x", b"g", b"L", b"K", b"S", b"X", b"0", b"7", b"1", b"5"]))
            if not draw(st.integers(0, 5)):
                size = draw(st.sampled_from([-(2**40), -512, -1, 0, 1, 512, 2**16, 2**33, 2**70]))
                header[124:136] = size.to_bytes(12, signed=True) if size < 0 else b"\x80" + size.to_bytes(11)
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            data[start : start + 512] = header
    return bytes(data)


@FUZZ
@given(mostly(tars(), st.binary(max_size=2000)), st.booleans())
def test_tars(watched, tmp_path_factory, data, scored):
    root = _fresh(tmp_path_factory, "tars")
    (root / "a.tar").write_bytes(data)
    passed(watched, root, "webdataset", scored)


def parquets() -> list[bytes]:
    """Tables of several encodings and types."""
    pictures = [encoded("PNG"), encoded("JPEG"), encoded("PNG", size=(9, 9))] * 3
    columns = {"language": ["en", "de", None] * 3, "punsafe": [0.1, 0.2, None] * 3, "width": [23, 23, 9] * 3}
    tables = [
        pa.table({"image": pictures, "text": ["one", "two", "three"] * 3, **columns}),
        pa.table(
            {
                "image": [{"bytes": each, "path": "a"} for each in pictures],
                "text": [["a", "b"], [], None] * 3,
                **columns,
            }
        ),
        pa.table({"image": pictures, "caption": [b"one", b"\xff", None] * 3, **columns}),
    ]
    made = []
    for table in tables:
        for options in (
            {},
            {"compression": "none", "use_dictionary": False},
            {"compression": "zstd", "row_group_size": 2},
        ):
            file = io.BytesIO()
            pq.write_table(table, file, **options)
            made.append(file.getvalue())
    delta, file = dict.fromkeys(["text"], "DELTA_BYTE_ARRAY"), io.BytesIO()
    pq.write_table(tables[0], file, use_dictionary=False, column_encoding=delta, data_page_version="2.0")
    return [*made, file.getvalue()]


@FUZZ
@given(mostly(spoilt(parquets()), st.binary(max_size=300)), st.booleans())
def test_tables(watched, tmp_path_factory, data, scored):
    root = _fresh(tmp_path_factory, "tables")
    (root / "a.parquet").write_bytes(data)
    passed(watched, root, "parquet", scored)


def _fresh(factory, name: str) -> Path:
    """A folder of this process, the same for every example."""
    path = factory.getbasetemp() / name / "data"
    path.mkdir(parents=True, exist_ok=True)
    return path
