import pytest
from reported import REPORT

from prunella.reporting.charts import (
    COLORS,
    GREY,
    choose_log_ticks,
    plot_output_errors,
    plot_tradeoffs,
    plot_training_curves,
    read_curve_columns,
)


def lines(figure) -> dict:
    return {line["name"]: (line["x"], line["y"]) for line in figure["data"]}


def test_quality_is_held_against_every_cost_that_has_values():
    found = plot_tradeoffs(REPORT)
    quality, cost = ["composition", "output_error"], ["latency_ms_p50", "params", "disk_mb", "peak_memory_mb"]
    assert list(found) == [f"{figure}|{each}" for figure in quality for each in cost]
    figure = found["composition|params"]
    assert lines(figure)["sd-tiny"] == ([3.32, 3.32], [0, 0.16]) and lines(figure)["teacher"] == ([8.77], [0.44])
    student = next(line for line in figure["data"] if line["name"] == "sd-tiny")
    assert student["error_y"]["array"] == pytest.approx([0.06, 0.10])
    assert student["error_y"]["arrayminus"] == pytest.approx([0, 0.07])
    assert student["marker"]["color"] == COLORS[0] and student["marker"]["symbol"] == ["circle-open", "circle"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "composition (higher is better)"


def test_the_front_is_of_models_that_none_is_cheaper_and_better_than():
    found = plot_tradeoffs(REPORT)
    front = lines(found["composition|latency_ms_p50"])["none is cheaper and better"]
    assert front == ([500.0, 900.0], [0.16, 0.44])  # the pruned student costs as much as the distilled one
    error = found["output_error|latency_ms_p50"]
    assert lines(error)["none is cheaper and better"] == ([500.0], [0.06])
    assert "teacher" not in lines(error)  # its error of 0 has no place on a logarithmic axis, which is said
    assert error["layout"]["yaxis"]["title"]["text"] == "output error (lower is better) (log scale)"


def test_no_chart_of_one_point_or_of_no_cost():
    bare = {name: {k: v for k, v in entry.items() if k != "disk_mb"} for name, entry in REPORT["models"].items()}
    assert "composition|disk_mb" not in plot_tradeoffs({"models": bare})
    assert plot_tradeoffs({"models": {"teacher": REPORT["models"]["teacher"]}}) == {}


def test_errors_are_bars_by_stage():
    figure = plot_output_errors(REPORT)
    assert lines(figure) == {"sd-tiny": (["pruned", "distilled"], [0.7, 0.06])}
    assert figure["data"][0]["error_y"]["color"] == GREY


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.05, 80, [0.1, 1, 10]),
        (0.06, 0.7, [0.1, 0.2, 0.5]),
        (0.21, 0.84, [0.3, 0.4, 0.5, 0.6, 0.8]),
        (0.217, 0.226, None),
    ],
)
def test_a_logarithmic_axis_has_round_ticks_wherever_it_lies(low, high, expected):
    within = [tick for tick in choose_log_ticks(low, high) if low <= tick <= high]
    assert len(within) >= 3 and (expected is None or within == expected)
    assert all(tick > 0 for tick in choose_log_ticks(low, high))


def test_curves_of_both_trainings(tmp_path):
    for training, student, text in [
        ("distill", "a", "step,loss,task,feature/x,feature/y\n0,2,0.5,1,3\n9,1,0.125,0.5,0.5\n"),
        ("distill", "b", "step,loss,task\n0,1,0.75\n"),
        ("finetune", "a", "step,loss,task\n0,1,0.25\n"),
    ]:
        folder = tmp_path / training / student
        folder.mkdir(parents=True)
        (folder / "heldout.csv").write_text(text)
        (folder / "train.csv").write_text("step,loss\n" + "".join(f"{i},{i % 2 + 1}\n" for i in range(40)))
    found = plot_training_curves(tmp_path, ["a", "b"])
    assert list(found) == [
        "Distillation: held-out task error",
        "Distillation: held-out feature error, mean of all blocks",
        "Distillation: training loss",
        "Fine-tuning: held-out task error",
        "Fine-tuning: training loss",
    ]
    task = found["Distillation: held-out task error"]
    assert lines(task) == {"a": ([0, 9], [0.5, 0.125]), "b": ([0], [0.75])}
    assert task["layout"]["yaxis"]["title"]["text"] == "held-out task error (log scale)"
    assert lines(found["Distillation: held-out feature error, mean of all blocks"])["a"] == ([0, 9], [2, 0.5])
    raw, smooth = (line["y"] for line in found["Fine-tuning: training loss"]["data"][:2])
    assert raw[:4] == [1, 2, 1, 2] and smooth[:4] == [1, 1.5, 1.5, 1.5]
    another = plot_training_curves(tmp_path, ["a", "b"], base_models=["a"])
    assert lines(another["Distillation: held-out task error"]) == {"b": ([0], [0.75])}
    assert {line["name"] for line in another["Distillation: training loss"]["data"]} == {"b"}
    assert another["Fine-tuning: held-out task error"] == found["Fine-tuning: held-out task error"]


def test_a_curve_that_hardly_moves_is_not_put_on_a_logarithmic_axis(tmp_path):
    folder = tmp_path / "finetune" / "a"
    folder.mkdir(parents=True)
    (folder / "heldout.csv").write_text("step,task\n0,0.226\n40,0.221\n")
    chart = plot_training_curves(tmp_path, ["a"])["Fine-tuning: held-out task error"]
    assert chart["layout"]["yaxis"] == {"title": {"text": "held-out task error"}}


def test_there_are_no_columns_without_a_file(tmp_path):
    assert read_curve_columns(tmp_path / "none.csv") == {}
