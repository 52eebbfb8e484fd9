import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.buckets import NO_BUCKET, SSD_1B, assign_buckets, bucket_sizes
from prunella.errors import UserError


def test_the_nine_sizes_are_as_published():
    assert bucket_sizes("ssd-1b", 1024, 32) == list(SSD_1B) and len(SSD_1B) == 9


def test_the_nine_scale_with_the_resolution():
    half = bucket_sizes("ssd-1b", 512, 32)
    assert half[:3] == [(512, 512), (576, 448), (448, 576)] and len(half) == 9
    with pytest.raises(UserError, match=r"at 64 pixels, in steps of 32, the nine sizes of ssd-1b are only \d"):
        bucket_sizes("ssd-1b", 64, 32)


def test_computed_sizes_by_hand():
    # 96² = 9216 pixels in steps of 32: 64 × 128 is 8192, 128 × 64 too; 160 wide is 32 high, too long.
    assert bucket_sizes("computed", 96, 32) == [(96, 96), (64, 128), (128, 64)]
    assert bucket_sizes("square", 96, 32) == [(96, 96)]


@given(st.integers(2, 24), st.sampled_from([8, 32, 64]))
def test_computed_sizes_keep_to_the_area(steps, multiple):
    side = steps * multiple
    made = bucket_sizes("computed", side, multiple)
    assert made[0] == (side, side) and len(set(made)) == len(made)
    for width, height in made:
        assert width % multiple == height % multiple == 0 and width * height <= side * side
        assert (height, width) in made and max(width, height) <= 2.4 * min(width, height)


def test_a_resolution_that_the_teacher_cannot_take():
    with pytest.raises(UserError, match=r"encode.resolution: 40 is no multiple of 32, which this teacher needs"):
        bucket_sizes("square", 40, 32)


def test_pictures_go_to_the_nearest_proportions():
    pictures = np.array([(2000, 2000), (1600, 1200), (1200, 1600), (4000, 1000), (1920, 1080)])
    chosen = [SSD_1B[i] for i in assign_buckets(pictures, list(SSD_1B), 1.0)]
    # 4:3 is 1.33: 1152 / 896 is 1.29, 1216 / 832 is 1.46. 16:9 is 1.78: 1344 / 768 is 1.75.
    assert chosen == [(1024, 1024), (1152, 896), (896, 1152), (1536, 640), (1344, 768)]


def test_no_picture_is_enlarged_beyond_the_limit():
    among = [(64, 64), (96, 32)]
    assert assign_buckets(np.array([(64, 64), (63, 64), (96, 32), (95, 32), (100, 33)]), among, 1.0).tolist() == [
        0, NO_BUCKET, 1, NO_BUCKET, 1,
    ]  # fmt: skip
    assert assign_buckets(np.array([(32, 32), (31, 32)]), among, 2.0).tolist() == [0, NO_BUCKET]
    # The size nearest in proportions would enlarge it three times, the square only twice.
    assert assign_buckets(np.array([(33, 32)]), [(96, 96), (64, 64)], 2.0).tolist() == [1]


@given(st.lists(st.tuples(*[st.integers(1, 3000)] * 2), min_size=1, max_size=20), st.sampled_from([1.0, 1.5, 4.0]))
def test_an_assigned_picture_covers_its_size(pictures, limit):
    for (width, height), number in zip(pictures, assign_buckets(np.array(pictures), list(SSD_1B), limit), strict=True):
        scale = [max(w / width, h / height) for w, h in SSD_1B]
        assert scale[number] <= limit if number != NO_BUCKET else min(scale) > limit
