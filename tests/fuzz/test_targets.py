"""Every decoder with bytes that were never meant: random ones, spoiled ones, and those that once broke something.

`make fuzz` goes on where this ends. What it finds becomes a file in ``corpus/TARGET/`` and is tried here from then on.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS
from hypothesis import given
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"


@st.composite
def spoiled(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good one, of which bytes are others, missing, or there twice."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["set", "cut", "insert", "repeat", "number"]))
        if how == "set" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        elif how == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
        else:  # lengths are what decoders believe
            data[at : at + 4] = draw(st.sampled_from([bytes(4), b"\xff" * 4, b"\0\0\1\0", b"\x7f\xff\xff\xff"]))
    return bytes(data)


def inputs(name: str) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=300) | spoiled(SEEDS[name])


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
def test_nothing_breaks(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(inputs(name)))


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_once_broke_something(name: str) -> None:
    for one in [*SEEDS[name], *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]:
        TARGETS[name](one)


def test_the_corpus_is_small_and_known() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 64 << 10
