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
def test_a_changed_object_runs_the_filter_again_and_an_unchanged_one_nothing(teacher, pictures, tmp_path, monkeypatch):
    with s3(monkeypatch, tmp_path) as server:
        server.put(layouts.webdataset(tmp_path / "tars", ROWS, per_file=10), "pairs/some")
        clone = cloned(teacher, pictures, tmp_path)
        content = yaml.safe_load((clone / "params.yaml").read_text())
        content["filter"] |= {"source": "webdataset", "path": "s3://pairs/some"}
        content["encode"]["store"] = "s3://pairs/shards"
        (clone / "params.yaml").write_text(yaml.safe_dump(content))

        def again(stage: str) -> set[str]:
            return stages_run(run(clone, DVC, "repro", stage, **server.environment))

        assert again("encode") == {"check", "teacher", "filter", "check_pairs", "encode"}
        assert again("encode") == set()
        assert sorted(path.name for path in (clone / "data" / "latents").iterdir()) == [
            "empty.safetensors", "manifest.json"
        ]  # fmt: skip
        store = fsspec.filesystem("s3")
        assert len(store.glob("pairs/shards/*/*.safetensors")) == 4
        store.pipe_file("pairs/some/00002.tar", store.cat_file("pairs/some/00001.tar"))
        assert again("filter") == {"filter"}
        lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["filter"]["deps"]
        assert next(each for each in lock if each["path"] == "s3://pairs/some")["nfiles"] == 3
