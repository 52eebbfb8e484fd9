"""Hostile weight files, parameter files and plans: read, or refused in a UserError.

`fuzzing` says how many inputs there are, and holds them to their bounds.
"""

import json

from fuzzing import FUZZ, MARKS, mostly, spoilt, watched
from hypothesis import given
from hypothesis import strategies as st

from prunella.models.weights import check_finite_safetensors, read_header
from prunella.params import Params, read_params
from prunella.params.recipes import DEFAULTS
from prunella.pruning.plan import SHIPPED_PLANS, Plan, read_plan

pytestmark = MARKS
__all__ = ["watched"]  # a fixture


def safetensors(entries: dict, data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], first: int, last: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


WEIGHTS = [
    safetensors({"a": entry("F32", [2, 3], 0, 24), "b": entry("F16", [5], 24, 34)}, bytes(34)),
    safetensors({"__metadata__": {"format": "pt"}, "a": entry("BF16", [1, 1, 3], 0, 6)}, b"\x80\x3f" * 3),
    safetensors({"a": entry("I64", [], 0, 8), "b": entry("F32", [0, 7], 8, 8)}, bytes(8)),
]
# What stands in a header: numbers that do not fit and types that do not belong.
PARTS = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 2**40), max_size=4),
    st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", "F4"]),
)
ENTRIES = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]) | st.text(max_size=3), PARTS, max_size=4)
HEADERS = st.dictionaries(st.text(max_size=4), ENTRIES | PARTS, max_size=4) | PARTS


@FUZZ
@given(mostly(spoilt(WEIGHTS), st.binary(max_size=100) | st.builds(safetensors, HEADERS, st.binary(max_size=64))))
def test_weights(watched, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "a.safetensors"
    path.write_bytes(data)
    with watched():
        assert isinstance(read_header(path), dict)
        check_finite_safetensors(path)


PARAMS = [DEFAULTS.read_bytes()]
PLANS = [path.read_bytes() for path in sorted(SHIPPED_PLANS.glob("*.yaml"))]
# Values that YAML knows and that a line may be given in place of its own.
ODD = [
    b"null",
    b".nan",
    b"-1",
    b"1e999",
    b"[]",
    b"{}",
    b"[[1]]",
    b"'x'",
    b"*a",
    b"!!python/name:os.system",
    b"2001-01-01",
]


@st.composite
def lines_changed(draw, seeds: list[bytes]) -> bytes:
    """Text whose lines are given other values, taken out, repeated or moved to another depth."""
    lines = draw(st.sampled_from(seeds)).split(b"\n")
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["value", "value", "value", "out", "twice", "deeper", "text"]))
        key, colon, _ = lines[at].partition(b":")
        if kind == "value":
            lines[at] = key + colon + b" " + draw(st.sampled_from(ODD) | st.binary(max_size=12))
        elif kind == "out":
            lines[at] = b""
        elif kind == "twice":
            lines.insert(at, lines[at])
        elif kind == "deeper":
            lines[at] = b"  " + lines[at]
        else:
            lines[at] = draw(st.binary(max_size=30)) + b"[" * draw(st.sampled_from([0, 1, 5000]))
    return b"\n".join(lines)


@FUZZ
@given(mostly(lines_changed(PARAMS), spoilt(PARAMS)))
def test_parameters(watched, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    path.write_bytes(data)
    with watched():
        assert isinstance(read_params(path), Params)


@FUZZ
@given(mostly(lines_changed(PLANS), spoilt(PLANS)))
def test_plans(watched, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "plan.yaml"
    path.write_bytes(data)
    with watched():
        assert isinstance(read_plan(path), Plan)
