import random

from prunella.data.dedup import DuplicateFinder


def test_hashes_within_the_distance_are_known_again():
    seen = DuplicateFinder(3)
    value = 0x0123456789ABCDEF_FEDCBA9876543210
    assert not seen.check_and_add(value)
    assert seen.check_and_add(value)
    assert seen.check_and_add(value ^ (1 << 127 | 1 << 64 | 1))
    assert not seen.check_and_add(value ^ (1 << 127 | 1 << 96 | 1 << 64 | 1))


def test_nothing_near_is_missed():
    lots = random.Random(0)
    for distance in (0, 1, 5, 8):
        seen, value = DuplicateFinder(distance), lots.getrandbits(128)
        seen.check_and_add(value)
        for _ in range(50):
            spread = lots.sample(range(128), distance)
            assert seen.check_and_add(value ^ sum(1 << bit for bit in spread))


def test_what_was_near_is_not_remembered_itself():
    seen = DuplicateFinder(1)
    assert [seen.check_and_add(value) for value in (0b000, 0b001, 0b011)] == [False, True, False]
