import random

from known import SD15

from prunella import STUDENTS
from prunella.bench.every_plan import PLAN_COLUMNS, encode_plan, iter_unit_choices, read_measured_plans, sample_choices
from prunella.bench.plan_figures import (
    build_selection_table,
    compute_rank_correlation,
    correlate_normalized_errors,
    plot_plans_svg,
    select_greedily,
)
from prunella.planning.importance import ErrorStats
from prunella.planning.solver import solve_candidates
from prunella.planning.units import ThinStage, list_units, plan_without


def test_a_plan_on_one_line():
    assert encode_plan(STUDENTS["sd-tiny"]) == "0/02 0/02 0/02 - drop"
    assert (
        encode_plan(plan_without("sd", [ThinStage(1, (0,), (0, 2), ("down", "up"))]))
        == "01/012 0/02du 01/012 01/012 keep"
    )


def test_every_plan_once():
    without, having = (list(iter_unit_choices(list_units("sd", SD15, attention), 4)) for attention in (False, True))
    assert (len(without), len(having)) == (720, 46_080)  # 5·2·3·7·3 + 5·2·3·3; (5·4)·(2·4)·(3·4)·7·3 + 20·8·12·3
    assert len({encode_plan(plan_without("sd", lacking)) for lacking in without}) == 720
    assert sample_choices(having, 5, 0) == sample_choices(having, 5, 0) != sample_choices(having, 5, 1)


def test_a_row_that_was_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(",".join(PLAN_COLUMNS) + "\n0/02 - - - drop,1,2,0.5,0.25\n0/01 - - - dr")
    assert [row["plan"] for row in read_measured_plans(path)] == ["0/02 - - - drop"]
    assert path.read_text().endswith("0.25\n")


ROWS = [
    {"plan": "0/02 0/02 0/02 - drop", "params": "50", "macs": "5", "predicted": "0.4", "error": "0.3"},
    {"plan": "0/02 0/02 0/12 - drop", "params": "50", "macs": "5", "predicted": "0.2", "error": "0.2"},
    {"plan": "1/02 0/02 0/12 - drop", "params": "40", "macs": "5", "predicted": "0.3", "error": "0.1"},
    {"plan": "01/012 01/012 01/012 - drop", "params": "60", "macs": "9", "predicted": "0.1", "error": "0.0"},
]


def test_ranks_by_hand():
    head, row = build_selection_table(ROWS, {"sd-tiny": STUDENTS["sd-tiny"]})
    assert dict(zip(head[:3], row[:3], strict=True)) == {"at most as": "sd-tiny", "params": "50", "plans": "3"}
    # Of the three, the least predicted errs second least, and sd-tiny most.
    assert row[4:] == ["0/02 0/02 0/12 - drop", "0.2, 2", "0.1, 1", "0.3, 3"]
    assert round(compute_rank_correlation(ROWS), 9) == 0.8  # ranks 4 2 3 1 and 4 3 2 1: 1 - 6 · 2 / (4 · 15)


def test_the_picture_marks_what_is_named():
    drawn = plot_plans_svg(ROWS, {"0/02 0/02 0/02 - drop": "sd-tiny"})
    assert drawn.count("<circle") == 5 and ">sd-tiny</text>" in drawn


def test_the_exact_choice_is_never_worse_than_the_greedy_walk():
    found = list_units("sd", SD15, may_drop_attention=False)
    source = random.Random(2)
    importance = {unit: source.random() for unit in found}

    def cost(lacking) -> float:
        plan = plan_without("sd", lacking)
        return sum(len(pairs) for way in ("down", "up") for _, pairs in plan.list_kept_stages(way)) + 3 * (
            plan.mid == "keep"
        )

    for most in (14, 17, 20):
        walked = select_greedily(found, importance, cost, most)
        (exact,) = solve_candidates(found, 4, importance, cost, most, 1)
        assert exact.predicted_error <= sum(importance[unit] for unit in walked) + 1e-12 and cost(walked) <= most


def test_normalised_importance_counts_every_bin_alike():
    ways = [ThinStage(0, (0,), (0, 1)), ThinStage(0, (0,), (0, 2)), ThinStage(1, (0,), (0, 2))]
    rows = [
        {"plan": encode_plan(plan_without("sd", [way])), "error": str(error)}
        for way, error in zip(ways, (1, 2, 3), strict=True)
    ]
    errors = dict(
        zip(
            ways, [ErrorStats(5.0, (10.0, 0.0)), ErrorStats(1.0, (1.0, 1.0)), ErrorStats(1.05, (0.1, 2.0))], strict=True
        )
    )
    # Over the bins' means 3.7 and 1: 1.35, 0.64 and 1.01, against 1, 2 and 3.
    assert round(correlate_normalized_errors(rows, errors, [(way,) for way in ways]), 9) == -0.5
