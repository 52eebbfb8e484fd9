"""The real graph with its pairs on S3 (moto's server): DVC sees an object change, and nothing else runs again."""

import fsspec
import layouts
import pytest
import yaml
from layouts import drawn
from motoserver import s3
from toygraph import DVC, cloned, run, stages_run

ROWS = [(f"{i:02d}.png", drawn(i), f"a red thing {i}") for i in range(29)]


@pytest.mark.graph
def test_a_changed_object_runs_the_filter_again_and_an_untouched_store_nothing(
    teacher, pictures, tmp_path, monkeypatch
):
    with s3(monkeypatch, tmp_path) as server:
        server.put(layouts.webdataset(tmp_path / "tars", ROWS, per_file=10), "pairs/some")
        clone = cloned(teacher, pictures, tmp_path)
        content = yaml.safe_load((clone / "params.yaml").read_text())
        content["filter"] |= {"source": "webdataset", "path": "s3://pairs/some"}
        (clone / "params.yaml").write_text(yaml.safe_dump(content))

        def again() -> set[str]:
            return stages_run(run(clone, DVC, "repro", "encode", **server.environment))

        assert again() == {"check", "teacher", "filter", "check_pairs", "encode"}
        assert again() == set()
        store = fsspec.filesystem("s3")
        store.pipe_file("pairs/some/00002.tar", store.cat_file("pairs/some/00001.tar"))  # ten pairs fewer of their own
        assert again() == {"filter", "check_pairs", "encode"}
        lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["filter"]["deps"]
        assert next(each for each in lock if each["path"] == "s3://pairs/some")["nfiles"] == 3
