from prunella.training.metrics_log import MetricsLog


def written(tmp_path, told: list | None = None) -> MetricsLog:
    log = MetricsLog(tmp_path / "work" / "metrics.jsonl", lambda *row: (told if told is not None else []).append(row))
    log.log_metrics(0, "heldout", {"task": 3.0})
    log.log_metrics(1, "train", {"loss": 2.0})
    log.log_metrics(2, "train", {"loss": 1.5, "task": 1.0})
    return log


def test_rows_are_kept_by_split_and_told(tmp_path):
    log = written(tmp_path, told := [])
    assert log.rows("train") == [
        {"step": 1, "split": "train", "loss": 2.0},
        {"step": 2, "split": "train", "loss": 1.5, "task": 1.0},
    ]
    assert told[0] == (0, {"heldout/task": 3.0})
    assert len(log.rows()) == 3


def test_resuming_forgets_what_came_after_and_half_a_line(tmp_path):
    log = written(tmp_path)
    with log.path.open("a") as file:
        file.write('{"step": 3, "spl')
    assert len(log.rows()) == 3
    log.resume(1)
    assert [row["step"] for row in log.rows()] == [0, 1]
    log.log_metrics(2, "train", {"loss": 9.0})
    assert log.rows("train")[-1]["loss"] == 9.0


def test_tables_have_a_column_a_measurement(tmp_path):
    written(tmp_path)._write_table("train", tmp_path / "curves" / "train.csv")
    assert (tmp_path / "curves" / "train.csv").read_text().splitlines() == ["step,loss,task", "1,2.0,", "2,1.5,1.0"]
