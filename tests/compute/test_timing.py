from prunella.compute.timing import Timings


def test_seconds_add_up_under_their_names():
    clock = Timings()
    for _ in range(2):
        with clock("a"):
            pass
    assert set(clock.seconds) == {"a"} and 0 < clock.seconds["a"] < 1
