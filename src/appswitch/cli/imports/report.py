"""What an import leaves out, where that stands and why; and what input it cannot read at all."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

MAX_SHOWN = 160  # characters of a rule or directive


class InputError(Exception):
    """The input is not of the format that was asked for. The text says what to give."""


class TooComplexError(Exception):
    """Rules cut each other into more pieces than policies should be made of."""


class LeftOut(NamedTuple):
    """Something that no resource can say."""

    where: str  # "rules.v4:12", "rule 7 of inet filter input"
    what: str  # as it was written
    why: str

    def __str__(self) -> str:
        return f"{shown(self.where)}: {shown(self.what)}: {shown(self.why, 400)}"


class Report:
    """Collects what is left out, each once, and counts what needs no words because AppSwitch does it by itself."""

    def __init__(self) -> None:
        self._left_out: dict[LeftOut, None] = {}
        self._implied: dict[tuple[str, str], None] = {}

    def leave_out(self, where: str, what: str, why: str) -> None:
        """Note what could not be expressed."""
        self._left_out[LeftOut(where, what, why)] = None

    def imply(self, where: str, what: str) -> None:
        """Note what is so without being said."""
        self._implied[where, what] = None

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """In the order in which it was noted."""
        return tuple(self._left_out)

    @property
    def implied(self) -> dict[str, int]:
        """How often each was met."""
        return dict(Counter(what for _, what in self._implied))


def shown(text: str, most: int = MAX_SHOWN) -> str:
    """One line without control characters, and not a long one: it goes to a terminal."""
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line if len(line) <= most else line[: most - 3] + "..."
