import pytest

from prunella.bench import paper
from prunella.bench.paper import (
    CostAssumptions,
    RecipeWorkload,
    build_cost_estimate_table,
    count_stored_bytes,
    estimate_training_costs,
    make_recipe_workload,
)

HALF = CostAssumptions(tflops=1000, share=0.5, gpus=4, picture=100, price=2, storage=0.1)


@pytest.fixture
def tiny(monkeypatch) -> RecipeWorkload:
    """A run whose operations are round: 2 TFLOP to train on an example, 0.5 to encode one."""
    case = make_recipe_workload("sd-small").workload
    monkeypatch.setattr(type(case), "count_flops_per_image", lambda _: 2e12)
    monkeypatch.setattr(paper, "count_encoder_flops", lambda _: 5e11)
    return RecipeWorkload("tiny", case, num_samples=1_000_000, num_examples=9_000_000, batch_size=500)


def test_bytes_of_a_pair_are_those_of_docs_data():
    assert count_stored_bytes(make_recipe_workload("sd-small").workload) == (65_536, 118_272, 308)
    assert count_stored_bytes(make_recipe_workload("ssd-1b").workload) == (262_144, 317_952, 616)


def test_what_a_run_takes(tiny):
    found = estimate_training_costs(tiny, HALF)
    assert found["pictures, TB"] == pytest.approx(0.1)
    assert found["latents and embeddings, TB"] == pytest.approx(0.183808)
    assert (found["to encode, EFLOP"], found["to train, EFLOP"]) == pytest.approx((0.5, 18))
    assert (found["to encode, GPU hours"], found["to train, GPU hours"]) == pytest.approx((1e3 / 3600, 10))
    assert found["GPUs, price"] == pytest.approx(2 * (10 + 1e3 / 3600))
    assert found["latents and embeddings, price of a month"] == pytest.approx(18.3808)
    assert found["a node trains, examples/s"] == pytest.approx(1000)  # 4 × 500 TFLOP/s of 2 TFLOP
    assert found["for that it reads embeddings, MB/s"] == pytest.approx(183.808)
    assert found["a node encodes, pictures/s"] == pytest.approx(4000)
    assert found["for that it reads, MB/s"] == pytest.approx(400)
    # Two nodes take a step of 500 in a quarter of a second.
    assert found["two nodes exchange, GB/s each way"] == pytest.approx(4 * found["gradients of a step, GB"])


def test_the_recipes_say_how_long(tiny):
    assert make_recipe_workload("ssd-1b").num_examples == 251_000 * 32 * 4
    assert make_recipe_workload("sd-small", 3, epochs=2).num_examples == 6
    rows = build_cost_estimate_table([tiny, tiny], HALF)
    assert rows[0] == ["", "tiny", "tiny"] and all(len(row) == 3 for row in rows)
