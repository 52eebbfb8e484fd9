import json
import sys
from collections import Counter
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from prunella.cli.download import SHARD, counted, download
from prunella.errors import UserError

# Stands in for img2dataset: records how it was called, leaves what a shard's end leaves, ends as it is told.
FAKE = """#!{python}
import json, os, sys
from pathlib import Path
here = Path({here!r})
(here / "called.json").write_text(json.dumps([sys.argv, os.environ.get("NO_ALBUMENTATIONS_UPDATE")]))
told = json.loads((here / "told.json").read_text())
(out,) = [a.split("=", 1)[1].strip("'") for a in sys.argv if a.startswith("--output_folder=")]
for i, stats in enumerate(told["stats"]):
    (Path(out) / f"{{i:05d}}_stats.json").write_text(json.dumps(stats))
sys.exit(told["status"])
"""
FINE = {"count": 3, "successes": 2, "status_dict": {"success": 2, "HTTP Error 404: Not Found": 1}}
COLUMNS = {
    "URL": ["http://127.0.0.1/a.jpg", "http://127.0.0.1/b.jpg", "http://127.0.0.1/c.jpg"],
    "TEXT": ["a", None, "c"],
    "aesthetic": [5.5, 6.0, None],
    "punsafe": [0.1, 0.2, 0.3],
    "hash": [1, 2, 3],
}


class Fake:
    def __init__(self, here):
        self.here = here
        self.program = here / "img2dataset"
        self.program.write_text(FAKE.format(python=sys.executable, here=str(here)))
        self.program.chmod(0o755)
        self.tell(FINE)

    def tell(self, *stats, status=0):
        (self.here / "told.json").write_text(json.dumps({"stats": stats, "status": status}))

    def called(self):
        return json.loads((self.here / "called.json").read_text())


@pytest.fixture
def fake(tmp_path):
    (tmp_path / "bin").mkdir()
    return Fake(tmp_path / "bin")


@pytest.fixture
def table(tmp_path):
    return written(tmp_path / "table.parquet", **COLUMNS)


def written(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def fetch(table, out, fake=None, extra=("aesthetic", "hash"), size=512):
    download(table, out, "URL", "TEXT", list(extra), size, 4, fake and fake.program)


def test_img2dataset_is_called_with_literals(table, tmp_path, fake):
    fetch(table, tmp_path / "new" / "out", fake)
    arguments, asks_no_index = fake.called()
    assert arguments == [
        str(fake.program),
        f"--url_list='{table}'",
        f"--output_folder='{tmp_path}/new/out'",
        "--input_format='parquet'",
        "--url_col='URL'",
        "--caption_col='TEXT'",
        "--save_additional_columns=['aesthetic', 'hash']",
        "--output_format='webdataset'",
        "--number_sample_per_shard=10000",
        "--encode_format='jpg'",
        "--encode_quality=95",
        "--skip_reencode=True",
        "--resize_mode='keep_ratio'",
        "--image_size=512",
        "--resize_only_if_bigger=True",
        "--processes_count=4",
        "--incremental_mode='incremental'",
    ]
    assert asks_no_index == "1"
    assert counted(tmp_path / "new" / "out") == Counter(count=3, successes=2) + Counter(["HTTP Error 404: Not Found"])


def test_without_a_size_nothing_is_resized_and_columns_are_optional(table, tmp_path, fake):
    fetch(table, tmp_path / "out", fake, extra=(), size=None)
    arguments = fake.called()[0]
    assert "--resize_mode='no'" in arguments
    assert not [one for one in arguments if one.startswith(("--image_size", "--save_additional_columns"))]


def test_it_is_found_on_the_path_or_beside_python(table, tmp_path, fake, monkeypatch):
    monkeypatch.setenv("PATH", str(fake.here))
    fetch(table, tmp_path / "first")
    assert fake.called()[0][0] == str(fake.program)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(fake.here / "python"))
    fetch(table, tmp_path / "second")
    assert fake.called()[0][2] == f"--output_folder='{tmp_path}/second'"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        UserError, match=r"img2dataset is neither on PATH nor beside .*: install it in an environment of"
    ):
        fetch(table, tmp_path / "third")
    fake.program.unlink()
    with pytest.raises(UserError, match=r"bin/img2dataset: there is no program; .* `pipx install --python 3.11 img2d"):
        fetch(table, tmp_path / "third", fake)
    assert not (tmp_path / "third").exists()


def test_the_same_call_continues_and_another_is_refused(table, tmp_path, fake):
    fake.tell(status=1)
    with pytest.raises(UserError, match=r"img2dataset ended with status 1; what it printed above says why"):
        fetch(table, tmp_path / "out", fake)
    fake.tell(FINE)
    fetch(table, tmp_path / "out", fake)
    fetch(table.rename(tmp_path / "bin" / table.name), tmp_path / "out", fake)  # moved, but the same
    other = written(tmp_path / "other.parquet", **COLUMNS)
    for changed in ({"table": other}, {"size": 256}, {"extra": ()}):
        with pytest.raises(UserError, match=r"out: was begun with another table or other options"):
            fetch(**{"table": tmp_path / "bin" / table.name, "out": tmp_path / "out", "fake": fake} | changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "00000.tar").touch()
    with pytest.raises(UserError, match=r"full: is there already, and no download of ours"):
        fetch(other, tmp_path / "full", fake)


def test_a_folder_of_tables_has_shards_of_each(tmp_path, fake):
    folder = written(tmp_path / "tables" / "a.parquet", **COLUMNS).parent
    written(folder / "b.parquet", **{name: values[:1] * (SHARD + 1) for name, values in COLUMNS.items()})
    fake.tell(FINE, FINE)
    with pytest.raises(UserError, match=r"out: 1 of 3 shards are not finished; run the same command again"):
        fetch(folder, tmp_path / "out", fake)
    fake.tell(FINE, FINE, FINE)
    fetch(folder, tmp_path / "out", fake)
    assert counted(tmp_path / "out")["count"] == 9


def test_a_download_of_nothing_says_why(table, tmp_path, fake):
    reasons = {"HTTP Error 404: Not Found": 1, "Image decoding error": 2}
    fake.tell({"count": 3, "successes": 0, "status_dict": reasons})
    with pytest.raises(UserError, match=r"none of 3 pictures came, 2 of them for: Image decoding error"):
        fetch(table, tmp_path / "out", fake)


def test_tables_that_do_not_fit_are_refused_before_anything_is_fetched(table, tmp_path, fake):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    named = {"URL": ["u"], "TEXT": ["t"]}
    for path, extra, message in (
        (tmp_path / "none.parquet", (), r"none.parquet: there is no table"),
        (tmp_path / "empty", (), r"empty: there is no table"),
        (tmp_path / "text.parquet", (), r"text.parquet: cannot be read as parquet"),
        (table, ("pwatermark",), r"has no column 'pwatermark'; it has URL, TEXT, aesthetic, punsafe, hash"),
        (written(tmp_path / "w.parquet", **named, width=[1]), ("width",), r"width cannot be kept as it is"),
        (
            written(tmp_path / "d.parquet", **named, price=[Decimal("1.5")]),
            ("price",),
            r"'price' is decimal128\(2, 1\); ",
        ),
        (written(tmp_path / "0.parquet", URL=[], TEXT=[]), (), r"0.parquet: has no rows"),
    ):
        with pytest.raises(UserError, match=message):
            fetch(path, tmp_path / "out", fake, extra)
    assert not (tmp_path / "out").exists()
    assert not (fake.here / "called.json").exists()
