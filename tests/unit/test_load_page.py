"""docs/load.md says of limits what the code says."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/load.md").read_text()
# "4096 (`switch.parking.PER_APP`)", "1048576 bytes (`...`)", "200 at once (`...`)", "(`switch.pace.SHARE` 10)"
AFTER = re.compile(r"\b(\d+)(?: [a-z]+){0,3}[,;]? ?\(?`([a-z]\w*(?:\.\w+)+\.[A-Z_]+)`\)")
INSIDE = re.compile(r"\(`([a-z]\w*(?:\.\w+)+\.[A-Z_]+)` (\d+)\)")
NAMED = re.compile(r"`([a-z]\w*(?:\.\w+)+\.[A-Z_]+)`")

SAID = {name: int(number) for number, name in AFTER.findall(PAGE)} | {
    name: int(number) for name, number in INSIDE.findall(PAGE)
}


def value(name: str) -> object:
    """Of a constant: a module's, or a class's in it."""
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module("appswitch." + ".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[size:], module)
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", sorted(set(NAMED.findall(PAGE))))
def test_a_limit_is_what_the_page_says(name: str) -> None:
    assert SAID[name] == value(name)
