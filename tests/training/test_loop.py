import os
import signal

import pytest
import torch
from conftest import TRAINING
from torch import nn

from prunella.errors import UserError
from prunella.params import Training, validate_config
from prunella.training import checkpoint, loop
from prunella.training.loop import batch_numbers, ema_weights, lr_multiplier, make_ema, train


def settings(**changes) -> Training:
    return validate_config(Training, TRAINING | {"steps": 7, "learning_rate": 0.1} | changes, "settings")


def line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def batches(step: int) -> dict:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x.sum(1, keepdim=True)}


def loss(model, batch) -> dict:
    square = (model(batch["x"]) - batch["y"]).pow(2).mean()
    return {"loss": 2 * square, "square": square}


def flat(steps) -> list:
    """What `train` makes known, step by step."""
    return [row for _, known in steps for row in known]


def run(model, **options) -> list:
    chosen = options.pop("settings", settings())
    return flat(train(model, loss, batches, chosen, **options))


def test_it_learns_and_reports_every_step():
    rows = run(line(), settings=settings(steps=60))
    assert [done for done, _ in rows] == list(range(1, 61))
    assert rows[-1][1]["square"] < 0.1 * rows[0][1]["square"]
    assert all(row["loss"] == pytest.approx(2 * row["square"]) for _, row in rows)


def test_the_first_step_by_hand():
    # AdamW's first step moves each weight by the learning rate, against the gradient's sign.
    model = line()
    before = model.weight.detach().clone()
    loss(model, batches(0))["loss"].backward()
    sign = model.weight.grad.sign()
    model.zero_grad()
    next(iter(train(model, loss, batches, settings(lr_warmup_steps=0, lr_scheduler="constant", max_grad_norm=1e9))))
    assert torch.allclose(model.weight, before - 0.1 * sign, atol=1e-5)


def test_a_killed_run_goes_on_as_if_undisturbed(tmp_path):
    whole = line()
    ema = make_ema(whole, settings())
    expected = run(whole, ema=ema)

    broken = line()
    part = train(
        broken, loss, batches, settings(), folder=tmp_path, checkpoint_every=1, ema=make_ema(broken, settings())
    )
    seen = flat(next(part) for _ in range(4))
    part.close()
    fresh = line(seed=9)
    second = make_ema(fresh, settings())
    again = run(fresh, folder=tmp_path, ema=second)
    assert again[0][0] == 4  # a step is kept once the caller comes back for the next, so the fourth is done again
    assert seen[:3] + again == expected
    assert torch.equal(fresh.weight, whole.weight)
    assert all(torch.equal(a, b) for a, b in zip(second.shadow_params, ema.shadow_params, strict=True))


def test_a_finished_run_does_nothing_again(tmp_path):
    run(line(), folder=tmp_path)
    assert run(line(), folder=tmp_path) == []


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.5, 0]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.5, 0]),
    ],
)
def test_rates_by_hand(schedule, expected):
    chosen = settings(steps=6, lr_warmup_steps=2, lr_scheduler=schedule)
    assert [lr_multiplier(done, chosen) for done in (0, 1, 2, 4, 6)] == pytest.approx(expected)


def test_gradients_are_clipped():
    model, before = line(), line()
    plain = settings(max_grad_norm=1e-12, lr_scheduler="constant", lr_warmup_steps=0)
    next(iter(train(model, loss, batches, plain)))
    # Below Adam's epsilon (1e-8) a gradient moves nothing to speak of.
    assert torch.allclose(model.weight, before.weight, atol=1e-4)


def test_what_is_not_finite_stops_the_run_and_is_named():
    def bad(model, batch):
        terms = loss(model, batch)
        return terms if batch["x"][0, 0] != batches(2)["x"][0, 0] else {**terms, "square": terms["square"] / 0}

    with pytest.raises(UserError, match="step 2: square is not finite; a smaller learning_rate"):
        list(train(line(), bad, batches, settings()))


def test_what_is_not_finite_names_the_pairs_and_spoils_nothing(tmp_path):
    def told(step: int) -> dict:
        return batches(step) | {"pairs": torch.tensor([7, 1, 8, 2, 6])}

    def bad(model, batch):
        terms = loss(model, batch)
        return (
            terms if batch["x"][0, 0] != batches(2)["x"][0, 0] else {name: value / 0 for name, value in terms.items()}
        )

    model, sound = line(), line()
    with pytest.raises(UserError, match=r"step 2: loss, square is not finite \(pairs 7, 1, 8, 2, 6 of the training"):
        list(train(model, bad, told, settings(lr_scheduler="constant")))
    list(train(sound, loss, batches, settings(lr_scheduler="constant", steps=2)))
    assert torch.equal(model.weight, sound.weight)


def test_what_is_not_finite_before_any_step_is_the_teachers_or_the_datas_fault():
    def bad(model, batch):
        return {**loss(model, batch), "square": torch.tensor(float("nan"))}

    with pytest.raises(UserError, match=r"step 0: square is not finite.*before any step: teacher or data"):
        list(train(line(), bad, batches, settings()))


@pytest.mark.parametrize(("precision", "step"), [("fp32", 0), ("bf16", 0), ("fp16", 20)])
def test_gradients_that_are_never_finite_stop_the_run(precision, step):
    def silent(model, batch):
        return {"loss": (model.weight * 0).sum().sqrt()}  # 0, and no slope there

    with pytest.raises(UserError, match=f"step {step}: gradient_norm is not finite"):
        list(train(line(), silent, batches, settings(steps=40, precision=precision)))


def test_fp16_passes_over_a_step_and_goes_on():
    def once(model, batch):
        small = 1e-4 * loss(model, batch)["loss"]  # or the first scales would be too large for fp16
        bad = batch["x"][0, 0] == batches(2)["x"][0, 0]
        return {"loss": small + (model.weight * 0).sum().sqrt() if bad else small}

    rows = flat(train(line(), once, batches, settings(precision="fp16")))
    assert [done for done, values in rows if "gradient_norm" not in values] == [3]
    assert len(rows) == 7


def test_fp16_begins_with_too_large_a_scale_and_finds_its_own():
    model, before = line(), line()
    rows = flat(train(model, loss, batches, settings(precision="fp16", steps=60)))
    skipped = [done for done, values in rows if "gradient_norm" not in values]
    assert skipped[0] == 1 and max(skipped) < 10
    assert rows[-1][1]["square"] < 0.2 * rows[0][1]["square"] and not torch.equal(model.weight, before.weight)


def test_accumulated_batches_are_one_large_batch():
    def halves(number: int) -> dict:
        whole = batches(number // 2)
        return {name: value[:4].chunk(2)[number % 2] for name, value in whole.items()}

    def wholes(number: int) -> dict:
        return {name: value[:4] for name, value in batches(number).items()}

    one, two = line(), line()
    expected = flat(train(one, loss, wholes, settings()))
    rows = flat(train(two, loss, halves, settings(gradient_accumulation_steps=2)))
    assert torch.allclose(one.weight, two.weight, atol=1e-6)
    for (_, a), (_, b) in zip(expected, rows, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_a_batch_in_unequal_parts_is_the_whole_batch():
    def eights(number: int) -> dict:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        return {"x": x, "y": x.sum(1, keepdim=True)}

    one, two = line(), line()
    expected = flat(train(one, loss, eights, settings(gradient_accumulation_steps=2)))
    rows = flat(train(two, loss, eights, settings(gradient_accumulation_steps=2), micro_batch=3))  # 3, 3 and 2
    assert torch.allclose(one.weight, two.weight, atol=1e-6) and not torch.equal(one.weight, line().weight)
    for (_, a), (_, b) in zip(expected, rows, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_processes_share_a_step():
    chosen = settings(steps=5, gradient_accumulation_steps=3)
    assert list(batch_numbers(3, chosen, 0, 1)) == [9, 10, 11, 12, 13, 14]
    assert list(batch_numbers(3, chosen, 0, 2)) == [18, 19, 20, 24, 25, 26]
    assert list(batch_numbers(3, chosen, 1, 2)) == [21, 22, 23, 27, 28, 29]


def test_the_gradients_norm_is_told():
    model = line()
    loss(model, batches(0))["loss"].backward()
    norm = torch.cat([part.grad.flatten() for part in model.parameters()]).norm().item()
    _, ((_, values),) = next(train(line(), loss, batches, settings(max_grad_norm=1e-3)))
    assert values["gradient_norm"] == pytest.approx(norm)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_ends_the_run_after_its_step_and_keeps_it(number, name, tmp_path, capsys):
    expected = run(line(), settings=settings())
    seen = []
    with pytest.raises(SystemExit, match="143"):
        for done, known in train(line(), loss, batches, settings(), folder=tmp_path):
            seen += known
            if done == 3:
                os.kill(os.getpid(), number)
    assert f"stopped by {name} after step 4; its state is kept in" in capsys.readouterr().err
    fresh = line(seed=9)
    assert seen + run(fresh, folder=tmp_path, settings=settings()) == expected


def test_chance_in_the_model_is_the_same_after_resuming(tmp_path):
    def noisy(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))

    expected = run(noisy())
    part = train(noisy(), loss, batches, settings(), folder=tmp_path, checkpoint_every=1)
    [next(part) for _ in range(4)]
    part.close()
    assert run(noisy(5), folder=tmp_path) == expected[3:]


def test_inside_ema_weights_the_model_is_the_average():
    model = line()
    ema = make_ema(model, settings())
    run(model, ema=ema)
    own = model.weight.detach().clone()
    model.train()
    with ema_weights(model, ema):
        assert not torch.equal(model.weight, own) and not model.training
        assert torch.equal(model.weight, ema.shadow_params[0])
    assert torch.equal(model.weight, own) and model.training


def test_without_decay_there_is_no_average():
    assert make_ema(line(), settings(ema_decay=0)) is None
    with ema_weights(model := line(), None):
        assert not model.training


@pytest.fixture
def late(monkeypatch):
    """Numbers are looked at a step late, as beside a GPU."""
    monkeypatch.setattr(loop, "defers_reads", lambda device, optimizer: True)


def test_read_late_a_run_is_the_same(late, tmp_path, monkeypatch):
    one, two = line(), line()
    steps = list(train(one, loss, batches, settings(), checkpoint_every=3, folder=tmp_path))
    # Each step tells of the one before; nothing is left untold when a state is kept, at 3, 6 and the end.
    told = [[step for step, _ in known] for _, known in steps]
    assert told == [[], [1], [2, 3], [], [4], [5, 6], [7]]
    monkeypatch.undo()
    assert flat(steps) == run(two) and torch.equal(one.weight, two.weight)


@pytest.mark.parametrize("spoiled", ["term", "gradient"])
def test_read_late_a_step_that_is_not_finite_and_those_after_it_are_passed_over(late, tmp_path, spoiled):
    def told(step: int) -> dict:
        return batches(step) | {"pairs": torch.tensor([7, 1, 8, 2, 6])}

    def bad(model, batch):
        terms = loss(model, batch)
        if batch["x"][0, 0] != batches(2)["x"][0, 0]:
            return terms
        if spoiled == "gradient":
            return {**terms, "loss": terms["loss"] + (model.weight * 0).sum().sqrt()}
        return {**terms, "square": terms["square"] / 0}

    model, sound = line(), line()
    said = {"term": "square", "gradient": "gradient_norm"}[spoiled]
    with pytest.raises(UserError, match=rf"step 2: {said} is not finite \(pairs 7, 1, 8, 2, 6 of the training"):
        list(train(model, bad, told, settings(lr_scheduler="constant")))
    list(train(sound, loss, batches, settings(lr_scheduler="constant", steps=2)))
    assert torch.equal(model.weight, sound.weight)


def test_read_late_fp16_passes_over_a_step_and_goes_on(late):
    def once(model, batch):
        small = 1e-4 * loss(model, batch)["loss"]
        bad = batch["x"][0, 0] == batches(2)["x"][0, 0]
        return {"loss": small + (model.weight * 0).sum().sqrt() if bad else small}

    rows = flat(train(line(), once, batches, settings(precision="fp16")))
    assert [done for done, values in rows if "gradient_norm" not in values] == [3] and len(rows) == 7


def test_read_late_a_signal_ends_the_run_a_step_later_with_all_of_it_told(late, tmp_path):
    seen = []
    with pytest.raises(SystemExit, match="143"):
        for done, known in train(line(), loss, batches, settings(), folder=tmp_path):
            seen += known
            if done == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5] and checkpoint.newest_step(tmp_path) == 5


def test_a_term_that_overflows_is_passed_over_in_fp16_as_a_gradient_is():
    def overflowing(model, batch):
        terms = loss(model, batch)
        bad = batch["x"][0, 0] == batches(2)["x"][0, 0]
        return {"loss": 1e-4 * terms["loss"] * (float("inf") if bad else 1.0)}

    rows = flat(train(line(), overflowing, batches, settings(precision="fp16")))
    assert len(rows) == 7 and rows[2] == (3, {})
