from PIL import Image

from prunella.training.metrics_log import MetricsLog, NullTracker


class Tracker(NullTracker):
    def __init__(self):
        self.told = []

    def metrics(self, step, values):
        self.told.append((step, values))


def written(tmp_path) -> MetricsLog:
    journal = MetricsLog(tmp_path / "work" / "metrics.jsonl", Tracker())
    journal.metrics(0, "heldout", {"task": 3.0})
    journal.metrics(1, "train", {"loss": 2.0})
    journal.metrics(2, "train", {"loss": 1.5, "task": 1.0})
    return journal


def test_rows_are_kept_by_split_and_the_mirror_is_told(tmp_path):
    journal = written(tmp_path)
    assert journal.rows("train") == [
        {"step": 1, "split": "train", "loss": 2.0},
        {"step": 2, "split": "train", "loss": 1.5, "task": 1.0},
    ]
    assert journal.mirror.told[0] == (0, {"heldout/task": 3.0})
    assert len(journal.rows()) == 3


def test_resuming_forgets_what_came_after_and_half_a_line(tmp_path):
    journal = written(tmp_path)
    with journal.path.open("a") as file:
        file.write('{"step": 3, "spl')
    assert len(journal.rows()) == 3
    journal.resume(1)
    assert [row["step"] for row in journal.rows()] == [0, 1]
    journal.metrics(2, "train", {"loss": 9.0})
    assert journal.rows("train")[-1]["loss"] == 9.0


def test_tables_have_a_column_a_measurement(tmp_path):
    written(tmp_path).table("train", tmp_path / "curves" / "train.csv")
    assert (tmp_path / "curves" / "train.csv").read_text().splitlines() == ["step,loss,task", "1,2.0,", "2,1.5,1.0"]


def test_silence_is_a_mirror_too(tmp_path):
    journal = MetricsLog(tmp_path / "metrics.jsonl", NullTracker())
    journal.metrics(1, "train", {"loss": 1.0})
    journal.picture(1, "samples", Image.new("RGB", (1, 1)))
    assert len(journal.rows()) == 1
