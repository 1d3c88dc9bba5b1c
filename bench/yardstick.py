"""A piece of work that never changes, for its own process: `python yardstick.py`. Standard library only.

Half of it is Python and half is system calls, as in the switch. How long it takes tells how fast the machine is just
now, to code of this kind: a neighbour on the other half of a core slows it as much as it slows the switch. Each line of
standard input is answered with {"took": nanoseconds of processor time}.
"""

from __future__ import annotations

import os
import sys
import time

TIMES = 400


class _Call:
    __slots__ = ("args", "number", "options")

    def __init__(self, args: tuple[int, ...], options: dict[int, int]) -> None:
        self.args = args
        self.number = args[0]
        self.options = options

    def look(self) -> int | None:
        return self.options.get(self.number & 0xFF)


def work(options: dict[int, int]) -> int:
    """Objects, calls, look-ups; four short system calls."""
    found = 0
    for number in range(6):
        call = _Call((number, 1, 2, 3), options)
        found += call.look() or 0
    for _ in range(4):
        os.fstat(0)
    return found


def main() -> None:
    """Answer until standard input ends."""
    options = {number: number for number in range(64)}
    for _ in sys.stdin:
        began = time.thread_time_ns()
        for _ in range(TIMES):
            work(options)
        print(f'{{"took": {(time.thread_time_ns() - began) // TIMES}}}', flush=True)


if __name__ == "__main__":
    main()
