"""What the fuzz tests share: bounds on time and memory, spoilt bytes, and a row of figures for each reader.

PRUNELLA_FUZZ is the number of inputs a reader, which are then new ones in every run; without it there are 500, always
the same. With PRUNELLA_FUZZ_TABLE each reader appends its row to that file (JSON lines).
"""

import faulthandler
import json
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from prunella.data.images import RejectedImage
from prunella.errors import UserError

COUNT = int(os.environ.get("PRUNELLA_FUZZ", "500"))
MOST_SECONDS = 30  # for one input; all but the largest pictures take milliseconds
MOST_MEMORY = 2_500_000_000  # bytes by which a process may grow: the largest picture (1.8 GB) beside the rest
FUZZ = settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize="PRUNELLA_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="alarms and a process's memory, as Linux has them"),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # an input that fails is shown, however large
]
LIBRARIES = ("pillow", "pyarrow", "safetensors", "pydantic", "pyyaml")
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 511, 512, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


class Hang(AssertionError):
    """An input took longer than it may."""


class Watched:
    """One reader's inputs so far: how each ended, and the most memory that one took."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.growth = 0  # bytes
        self.crashes: Counter[str] = Counter()  # by what was raised; inputs made smaller after a crash count again

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Counts the block as accepted, refused, crashed or hanging; fails where it takes too long or too much.

        A UserError or RejectedImage that leaves the block is a refusal, and goes no further.
        """
        end, before = "crashes", _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(MOST_SECONDS)
        faulthandler.dump_traceback_later(4 * MOST_SECONDS, exit=True)  # where no alarm gets through
        try:
            yield
            end = "accepted"
        except (UserError, RejectedImage) as refusal:
            assert str(refusal) or getattr(refusal, "cause", "")
            end = "refused"
        except Hang:
            end = "hangs"
            raise
        except Exception as error:
            self.crashes[repr(error)[:200]] += 1
            raise
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            growth = _memory("VmHWM") - before
            self.growth = max(self.growth, growth)
            self.ends[end] += 1
        assert growth < MOST_MEMORY

    def row(self, reader: str, seconds: float) -> dict:
        """The figures of a table."""
        counts = {end: self.ends[end] for end in ("accepted", "refused", "crashes", "hangs")}
        return {
            "reader": reader,
            "inputs": self.ends.total(),
            **counts,
            "raised": dict(self.crashes),
            "most_memory_mb": round(self.growth / 1e6),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
            "seconds": round(seconds),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
            "command": f"PRUNELLA_FUZZ={COUNT} pytest {' '.join(sys.argv[1:])}",
        }


@pytest.fixture
def watched(request) -> Iterator[Watched]:
    """A reader's bounds; its row is appended to the table at its end."""
    watch, began = Watched(), time.monotonic()
    yield watch
    row = watch.row(request.node.name.removeprefix("test_"), time.monotonic() - began)
    print(row)
    if table := os.environ.get("PRUNELLA_FUZZ_TABLE"):
        Path(table).parent.mkdir(parents=True, exist_ok=True)
        with Path(table).open("a") as file:
            file.write(json.dumps(row) + "\n")


def _hang(*_) -> None:
    raise Hang(f"an input takes more than {MOST_SECONDS} s")


def _memory(kind: str) -> int:
    """Bytes: VmRSS is what the process has, VmHWM the most since the peak was begun anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


@st.composite
def spoilt(draw, seeds: list[bytes], block: int = 1) -> bytes:
    """One of `seeds` with bytes and numbers changed, parts cut out, repeated or put in; places are blocks' starts."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["byte", "byte", "number", "number", "cut", "repeat", "put", "end"]))
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "number":
            packed = struct.pack(draw(st.sampled_from(["<I", ">I", "<H", ">H"])), 0)
            value = draw(st.sampled_from(NUMBERS)) % 256 ** len(packed)
            data[at : at + len(packed)] = value.to_bytes(len(packed), draw(st.sampled_from(["big", "little"])))
        else:
            start = at // block * block
            part = bytes(data[start : start + block * draw(st.integers(1, 64))])
            if kind == "cut":
                del data[start : start + len(part)]
            elif kind == "repeat":
                data[start:start] = part * draw(st.sampled_from([1, 2, 50, 1000]))
            elif kind == "put":
                put = draw(st.binary(max_size=block * 4))
                data[start:start] = put + bytes(-len(put) % block)
            else:
                del data[at:]
        del data[2_000_000:]
    return bytes(data)


def mostly(usual: st.SearchStrategy, odd: st.SearchStrategy) -> st.SearchStrategy:
    return st.integers(0, 9).flatmap(lambda number: usual if number else odd)
