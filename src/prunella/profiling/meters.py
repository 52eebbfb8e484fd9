"""Peak memory of a call, measured: of the GPU's allocator, else of the process."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch


class MemoryMeter:
    """Peaks above what the process held when the meter was made, in MB; None where they cannot be measured.

    On a GPU these are the allocator's peaks; on Linux those of resident memory, which the kernel is asked to forget.
    """

    def __init__(self) -> None:
        gc.collect()
        self.gpu = torch.cuda.is_available()
        if self.gpu:
            torch.cuda.empty_cache()
        self.baseline = self._current_usage()

    def peak_mb(self, call: Callable[[], object]) -> float | None:
        """The peak while `call` runs, what it found loaded since the meter was made included."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            call()
            torch.cuda.synchronize()
            return round((torch.cuda.max_memory_allocated() - (self.baseline or 0)) / 1e6, 1)
        can_reset = _reset_process_peak()
        call()
        peak = _read_proc_status("VmHWM") if can_reset else None
        return None if peak is None or self.baseline is None else round((peak - self.baseline) / 1e3, 1)

    def max_reserved_mb(self) -> float | None:
        """The largest memory that the GPU's allocator has taken from the device at most since the last peak; None on
        a CPU."""
        return round(torch.cuda.max_memory_reserved() / 1e6, 1) if self.gpu else None

    def _current_usage(self) -> float | None:
        if self.gpu:
            return torch.cuda.memory_allocated()
        return _read_proc_status("VmRSS") if _reset_process_peak() else None


def _reset_process_peak() -> bool:
    """Give free memory back and begin the peak of resident memory anew; False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _read_proc_status(name: str) -> float:
    """A field of /proc/self/status in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1.024 for line in lines if line.startswith(name + ":"))
