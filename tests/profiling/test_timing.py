import types

import pytest

from prunella.profiling.energy import EnergyMeter, make_energy_meter
from prunella.profiling.timing import InterleavedTimer, estimate_median


def clocked(monkeypatch, milliseconds) -> None:
    """Each call in turn takes the next of `milliseconds`."""
    clock = iter([x for ms in milliseconds for x in (0.0, ms / 1000)])
    monkeypatch.setattr("prunella.profiling.timing.time.perf_counter", lambda: next(clock))


def test_calls_are_taken_in_turns():
    order = []
    InterleavedTimer({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(("rounds", "p95"), [(19, 19.0), (40, 38.95)])
def test_the_95th_percentile_of_few_rounds_is_their_largest(monkeypatch, rounds, p95):
    clocked(monkeypatch, range(1, rounds + 1))
    found = InterleavedTimer({"a": lambda: None}, rounds).latency("a")
    assert found["latency_ms_p95"] == pytest.approx(p95, abs=0.06)
    assert found["latency_ms_max"] == rounds and found["latency_ms_p50"] == pytest.approx((rounds + 1) / 2, abs=0.1)


def test_a_speedup_is_of_one_round_and_not_of_medians(monkeypatch):
    clocked(monkeypatch, [10, 5, 100, 40, 30, 10])  # teacher, student: 2, 2.5 and 3 times
    turns = InterleavedTimer({"teacher": lambda: None, "student": lambda: None}, 3)
    assert turns.speedup("student", "teacher") == {"value": 2.5, "n": 3, "low": 2.0, "high": 3.0}
    assert turns.speedup("teacher", "teacher")["high"] == 1.0


def test_the_interval_of_a_median_is_of_order_statistics():
    # Binomial(7, 1/2): from the smallest to the largest 98.4 %, from the second to the second last 87.5 %.
    assert estimate_median([5, 1, 7, 2, 6, 3, 4]) == (4, 7, 1, 7)
    # Binomial(20, 1/2): from the 6th to the 15th 95.9 %, one less on either side 88.5 % (Conover's table).
    assert estimate_median(range(1, 21))[1:] == (20, 6, 15)
    assert estimate_median([3, 1, 2]) == (2, 3, 1, 3)


def test_energy_is_the_difference_of_the_devices_counter(monkeypatch):
    millijoules = iter([1000, 3500, 4000, 8000, 8000, 9000])
    nvml = types.SimpleNamespace(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules))
    turns = InterleavedTimer({"a": lambda: None}, 3, EnergyMeter(nvml, None))
    assert turns.joules == {"a": [2.5, 4.0, 1.0]} and turns.energy("a") == 2.5
    assert InterleavedTimer({"a": lambda: None}, 1).energy("a") is None


def test_a_device_without_a_counter_says_so():
    assert make_energy_meter("cpu") == "energy is measured on Nvidia GPUs alone"
