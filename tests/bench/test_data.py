import pyarrow.parquet as pq
import pytest

from prunella.bench.data import (
    format_pipeline_metrics,
    measure_data_pipeline,
    measure_row_filter,
    write_synthetic_table,
)


@pytest.mark.parametrize("buckets", ["square", "computed"])
def test_what_happens_to_data_is_timed(buckets, params, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    encode = params.encode.model_copy(update={"resolution": 96, "buckets": buckets, "max_upscale": 4.0})
    figures = measure_data_pipeline(params.model_copy(update={"encode": encode}), "cpu")
    assert figures["filter"]["rows"] == figures["filter"]["pictures"] == 29 and figures["encode"]["pairs"] == 29
    assert abs(sum(figures["encode"]["share"].values()) - 1) < 1e-9
    assert figures["encode"]["ms_a_picture"]["decode"] > 0
    assert min(figures["read_back"].values()) > 0
    assert len(format_pipeline_metrics(figures)) == 5 and not list(tmp_path.iterdir())


def test_a_made_up_table_is_judged(tmp_path):
    write_synthetic_table(tmp_path / "t.parquet", 5000)
    assert pq.read_metadata(tmp_path / "t.parquet").num_rows == 5000
    figures = measure_row_filter(tmp_path / "t.parquet")
    assert figures["rows"] == 5000 and 0 < figures["candidates"] < 500
