import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT

from prunella.cli.download import ROWS_PER_SHARD, download_images
from prunella.cli.proxy import run_filtering_proxy
from prunella.errors import UserError
from prunella.params import read_params

# Stands in for img2dataset: records how it was called and what it was given, leaves what a shard's end leaves.
FAKE = """#!{python}
import json, os, sys
from pathlib import Path
here = Path({here!r})
proxies = {{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}}
(here / "called.json").write_text(json.dumps([sys.argv, proxies, os.environ.get("NO_ALBUMENTATIONS_UPDATE")]))
told = json.loads((here / "told.json").read_text())
(out,) = [a.split("=", 1)[1].strip("'") for a in sys.argv if a.startswith("--output_folder=")]
for i, stats in enumerate(told["stats"]):
    (Path(out) / f"{{i:05d}}_stats.json").write_text(json.dumps(stats))
sys.exit(told["status"])
"""
# Fetches as img2dataset does, which follows redirects by itself.
FETCHING = """#!{python}
import json, sys, urllib.request
from collections import Counter
from pathlib import Path
import pyarrow.parquet
given = dict(a[2:].split("=", 1) for a in sys.argv[1:])
status = Counter()
for url in pyarrow.parquet.read_table(given["url_list"].strip("'"))["URL"].to_pylist():
    try:
        with urllib.request.urlopen(urllib.request.Request(url), timeout=10) as answer:
            status["success"] += answer.read() == b"picture"
    except Exception as error:
        status[str(error)] += 1
stats = {{"count": sum(status.values()), "successes": status["success"], "status_dict": status}}
(Path(given["output_folder"].strip("'")) / "00000_stats.json").write_text(json.dumps(stats))
"""
FINE = {"count": 3, "successes": 2, "status_dict": {"success": 2, "HTTP Error 404: Not Found": 1}}
COLUMNS = {
    "URL": ["http://127.0.0.1/a.jpg", "http://127.0.0.1/b.jpg", "http://127.0.0.1/c.jpg"],
    "TEXT": ["a", None, "c"],
    "aesthetic": [5.5, 6.0, None],
    "hash": [1, 2, 3],
}


class Fake:
    def __init__(self, here, script=FAKE):
        here.mkdir()
        self.here, self.program = here, here / "img2dataset"
        self.program.write_text(script.format(python=sys.executable, here=str(here)))
        self.program.chmod(0o755)
        self.tell(FINE)

    def tell(self, *stats, status=0):
        (self.here / "told.json").write_text(json.dumps({"stats": stats, "status": status}))

    def called(self):
        return json.loads((self.here / "called.json").read_text())


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path / "bin")


@pytest.fixture
def table(tmp_path):
    return written(tmp_path / "table.parquet", **COLUMNS)


def written(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def fetch(table, out, fake=None, extra=("aesthetic", "hash"), size=512, **options):
    asked = {"criteria": None, "url": "URL", "caption": "TEXT", "extra": list(extra), "size": size, "processes": 4}
    return download_images(table, out, **asked, program=fake and fake.program, **options)


def test_img2dataset_is_called_with_literals_and_a_proxy(table, tmp_path, fake, monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.setenv(name, "elsewhere")
    counts = fetch(table, tmp_path / "new" / "out", fake)
    arguments, proxies, asks_no_index = fake.called()
    assert arguments == [
        str(fake.program),
        f"--url_list='{tmp_path}/new/out.parquet'",
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
    assert set(proxies) == {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy"}
    (proxy,) = set(proxies.values())
    assert proxy.startswith("http://127.0.0.1:") and asks_no_index == "1"
    assert counts == {"count": 3, "successes": 2}


def test_without_a_size_nothing_is_resized_and_columns_are_optional(table, tmp_path, fake):
    fetch(table, tmp_path / "out", fake, extra=(), size=None)
    arguments = fake.called()[0]
    assert "--resize_mode='no'" in arguments
    assert not [one for one in arguments if one.startswith(("--image_size", "--save_additional_columns"))]


@contextmanager
def serving(secret: int):
    """A server of "/picture" and of redirects to what must not be fetched; yields its port and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            place = {"/inner": f"http://127.0.0.2:{secret}/secret", "/file": "file:///etc/passwd"}.get(self.path)
            self.send_response(302 if place else 200)
            self.send_header("Location", place or "")
            self.end_headers()
            self.wfile.write(b"" if place else b"picture")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join()


def test_nothing_of_this_machine_is_fetched(tmp_path):
    (tmp_path / "private.jpg").write_bytes(b"picture")
    with serving(0) as (secret, asked_inside), serving(secret) as (port, asked):
        urls = [f"http://127.0.0.1:{port}/{name}" for name in ("picture", "inner", "file")]
        urls += [f"http://127.0.0.2:{secret}/direct", f"file://{tmp_path}/private.jpg", "ftp://127.0.0.1/private.jpg"]
        table = written(tmp_path / "t.parquet", URL=urls, TEXT=["a"] * 6)
        fake = Fake(tmp_path / "bin", FETCHING)
        counts = fetch(
            table, tmp_path / "out", fake, (), proxy=lambda: run_filtering_proxy(lambda at: at == "127.0.0.1")
        )
        assert counts == {"count": 4, "successes": 1}
        assert asked == ["/picture", "/inner", "/file"] and asked_inside == []
        with pytest.raises(UserError, match=r"none of 4 pictures came, 4 of them for: .*403: Address not public"):
            fetch(table, tmp_path / "other", fake, ())  # as it is without a test: loopback is refused as well
        assert len(asked) == 3 and asked_inside == []
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["URL"].to_pylist() == urls[:4]


def test_criteria_of_a_parameter_file_choose_the_rows(table, tmp_path, fake):
    criteria = read_params(ROOT / "params.yaml").filter.model_copy(update={"min_caption": 1, "max_caption": 9})
    options = {"url": "URL", "caption": "TEXT", "extra": [], "size": None, "processes": 1, "program": fake.program}
    download_images(table, tmp_path / "out", criteria=criteria, **options)
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["hash"].to_pylist() == [1, 3]


def test_it_is_found_on_the_path_or_beside_python(table, tmp_path, fake, monkeypatch):
    monkeypatch.setenv("PATH", str(fake.here))
    fetch(table, tmp_path / "first")
    assert fake.called()[0][0] == str(fake.program)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(fake.here / "python"))
    fetch(table, tmp_path / "second")
    assert fake.called()[0][2] == f"--output_folder='{tmp_path}/second'"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"img2dataset.*PATH.*pipx install"):
        fetch(table, tmp_path / "third")
    fake.program.unlink()
    with pytest.raises(UserError, match=r"bin/img2dataset: .*pipx install"):
        fetch(table, tmp_path / "third", fake)
    assert not (tmp_path / "third").exists()


def test_the_same_call_continues_and_another_is_refused(table, tmp_path, fake):
    fake.tell(status=1)
    with pytest.raises(UserError, match=r"img2dataset ended with status 1"):
        fetch(table, tmp_path / "out", fake)
    fake.tell(FINE)
    fetch(table, tmp_path / "out", fake)
    moved = table.rename(tmp_path / "bin" / table.name)
    fetch(moved, tmp_path / "out", fake)
    other = written(tmp_path / "other.parquet", **(COLUMNS | {"TEXT": ["a", "b", "c"]}))
    for changed in ({"table": other}, {"size": 256}, {"extra": ()}):
        with pytest.raises(UserError, match=r"out: .*another table or other options"):
            fetch(**{"table": moved, "out": tmp_path / "out", "fake": fake} | changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "00000.tar").touch()
    with pytest.raises(UserError, match=r"full: .*no download of ours"):
        fetch(other, tmp_path / "full", fake)


def test_what_img2dataset_leaves_is_counted(table, tmp_path, fake):
    long = written(
        tmp_path / "b.parquet", **{name: values[:1] * (ROWS_PER_SHARD + 1) for name, values in COLUMNS.items()}
    )
    with pytest.raises(UserError, match=r"out: 1 of 2 shards are not finished"):
        fetch(long, tmp_path / "out", fake)
    fake.tell(FINE, FINE)
    assert fetch(long, tmp_path / "out", fake)["count"] == 6
    fake.tell({"count": 3, "successes": 0, "status_dict": {"HTTP Error 404": 1, "Image decoding error": 2}})
    with pytest.raises(UserError, match=r"none of 3 pictures came, 2 of them for: Image decoding error"):
        fetch(table, tmp_path / "none", fake)


def test_tables_that_do_not_fit_are_refused_before_anything_is_fetched(table, tmp_path, fake):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    for path, extra, message in (
        (tmp_path / "none.parquet", (), r"^table: .*none.parquet is no Parquet file"),
        (tmp_path / "empty", (), r"^table: .*empty is no Parquet file"),
        (tmp_path / "text.parquet", (), r"text.parquet: damaged Parquet file"),
        (table, ("pwatermark",), r"no column 'pwatermark' to keep; it has URL, TEXT, aesthetic, hash"),
        (written(tmp_path / "t.parquet", URL=["http://x/"], caption=["a"]), (), r"no column for text; it has URL"),
        (written(tmp_path / "0.parquet", URL=["file:///a"], TEXT=["a"]), (), r"all 1 .* broken: address"),
    ):
        with pytest.raises(UserError, match=message):
            fetch(path, tmp_path / "out", fake, extra)
    assert not (tmp_path / "out").exists()
    assert not (fake.here / "called.json").exists()
