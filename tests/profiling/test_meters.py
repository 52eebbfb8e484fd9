import sys

import pytest
import torch

from prunella.profiling.meters import MemoryMeter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc/self/clear_refs")


def test_the_peak_is_what_a_call_holds():
    held = MemoryMeter().peak_mb(lambda: torch.ones(50_000_000).sum())
    assert 190 < held < 300  # 50 million floats are 200 MB


def test_a_second_peak_holds_what_was_kept_and_not_what_passed():
    meter, kept = MemoryMeter(), []

    def load():
        torch.ones(50_000_000).sum()
        kept.append(torch.ones(25_000_000))

    loading, drawing = meter.peak_mb(load), meter.peak_mb(lambda: torch.ones(5_000_000).sum())
    assert 190 < loading < 300 and 110 < drawing < 170  # 100 MB kept and 20 MB for a while
    assert meter.max_reserved_mb() is None
